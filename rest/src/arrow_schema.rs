//! Arrow streams that bring a schema and no rows.

use arrow_schema::SchemaRef;
use bytes::{Buf as _, Bytes};
use lakebed_core::{Error, Limits, Result};
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};

/// Stands before the length of a message; streams of old writers begin with the length at once.
const CONTINUATION: u32 = u32::MAX;

/// The schema of a stream that was received whole.
///
/// # Errors
/// `InvalidArgument` for what is no Arrow stream, or one with rows.
pub(crate) fn schema_of_stream(mut bytes: Bytes, limits: &Limits) -> Result<SchemaRef> {
    let header = next_header(&mut bytes)?.ok_or_else(|| Error::invalid("the stream is empty"))?;
    let schema = match IpcDecoder::new(limits).decode(&header, Bytes::new())? {
        Decoded::Schema(schema) => schema,
        Decoded::Dictionary | Decoded::Batch(_) => {
            return Err(Error::invalid("the stream does not begin with a schema"));
        }
    };
    match next_header(&mut bytes)? {
        None => Ok(schema),
        Some(_) => Err(Error::invalid("the stream has rows; a schema without rows is expected")),
    }
}

/// The header of the next message, or nothing at the stream's end.
fn next_header(bytes: &mut Bytes) -> Result<Option<Bytes>> {
    let broken = || Error::invalid("the stream breaks off within a message");
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut length = bytes.try_get_u32_le().map_err(|_| broken())?;
    if length == CONTINUATION {
        length = bytes.try_get_u32_le().map_err(|_| broken())?;
    }
    let length = usize::try_from(length).map_err(|_| broken())?;
    match length {
        0 => Ok(None),
        length if length <= bytes.len() => Ok(Some(bytes.split_to(length))),
        _ => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_schema_is_refused() {
        let limits = Limits::default();
        for bad in
            [&b""[..], b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\x10\0\0\0abc", b"no arrow at all"]
        {
            let error = schema_of_stream(Bytes::from_static(bad), &limits).unwrap_err();
            assert_eq!(error.kind(), lakebed_core::ErrorKind::InvalidArgument, "{bad:?}");
        }
    }
}
