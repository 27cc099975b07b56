//! Arrow streams that bring a schema and no rows.

use arrow_schema::SchemaRef;
use bytes::Bytes;
use lakebed_core::{Error, Limits, Result};
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use lakebed_proto::ipc_stream::{Frame, IpcFramer};

/// The schema of a stream that was received whole; its end marker may be absent, as peers allow.
///
/// # Errors
/// `InvalidArgument` for what is no Arrow stream, or one with rows.
pub(crate) fn schema_of_stream(mut bytes: Bytes, limits: &Limits) -> Result<SchemaRef> {
    let mut framer = IpcFramer::new(limits);
    let schema = match framer.take(&mut bytes)? {
        Some(Frame::Message { header, body }) => {
            match IpcDecoder::new(limits).decode(&header, body)? {
                Decoded::Schema(schema) => schema,
                Decoded::Dictionary | Decoded::Batch(_) => {
                    return Err(Error::invalid("the stream does not begin with a schema"));
                }
            }
        }
        Some(Frame::End) => return Err(Error::invalid("the stream is empty")),
        Some(Frame::Body(_)) => {
            return Err(Error::invalid("the stream does not begin with a schema"));
        }
        None => return Err(Error::invalid("the stream breaks off within a message")),
    };
    if bytes.is_empty() {
        return Ok(schema);
    }
    match framer.take(&mut bytes)? {
        // Asked once more, it refuses what follows the end.
        Some(Frame::End) => framer.take(&mut bytes).map(|_| schema),
        Some(Frame::Body(_) | Frame::Message { .. }) => {
            Err(Error::invalid("the stream has rows; a schema without rows is expected"))
        }
        None => Err(Error::invalid("the stream breaks off within a message")),
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
