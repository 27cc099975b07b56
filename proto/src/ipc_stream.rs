//! Cuts the Arrow IPC streaming format into its messages while its bytes arrive.
//!
//! Why it exists: a body over HTTP comes in chunks that know nothing of messages, and may be larger than
//! memory. The framer copies each message into a place of its own, no more than it was told to expect,
//! and says before the body of a message comes how large it will be, so that memory can be taken first.
//!
//! ```text
//!   0xFFFFFFFF  header length  header  body      …      0xFFFFFFFF  0
//! ```
//!
//! What always holds: a stream that stops without its end marker never ends plainly; nothing is
//! reserved for a message beyond the stated limit, whatever it claims. What a message says is checked
//! by [`crate::ipc_guard`], not here.

use bytes::{Buf as _, Bytes, BytesMut};
use lakebed_core::{Error, Limits, Result};

use crate::ipc_guard::{HEADER_BYTES_MAX, body_bytes};

const CONTINUATION: [u8; 4] = [0xff; 4];
/// The continuation marker and the header's length.
const PREFIX_BYTES: usize = 8;
/// A body is reserved at once up to here, and beyond it as it arrives.
const RESERVED_AT_ONCE_BYTES_MAX: usize = 8 << 20;

/// What the framer found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The body of a message follows and has this many bytes.
    Body(usize),
    /// A message is complete.
    Message {
        /// The flatbuffer that says what it is.
        header: Bytes,
        /// Its buffers.
        body: Bytes,
    },
    /// The end marker.
    End,
}

/// Cuts one stream.
#[derive(Debug)]
pub struct IpcFramer {
    limits: Limits,
    state: State,
    /// What came of the part that is waited for.
    part: BytesMut,
}

#[derive(Debug)]
enum State {
    Prefix,
    Header(usize),
    Body { header: Bytes, bytes: usize },
    Ended,
}

impl IpcFramer {
    /// A framer for a stream that has not begun.
    pub fn new(limits: &Limits) -> Self {
        IpcFramer { limits: limits.clone(), state: State::Prefix, part: BytesMut::new() }
    }

    /// Whether the end marker came.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether it got no byte since it was made, or since the last message.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Prefix) && self.part.is_empty()
    }

    /// Takes bytes from the front of `chunk` until there is something to say; `None` when all were taken.
    ///
    /// # Errors
    /// `InvalidArgument` for bytes that are no such stream or pass a limit.
    pub fn take(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>> {
        loop {
            let wanted = match &self.state {
                State::Prefix => PREFIX_BYTES,
                State::Header(bytes) | State::Body { bytes, .. } => *bytes,
                State::Ended if chunk.is_empty() => return Ok(None),
                State::Ended => {
                    return Err(Error::invalid("bytes follow the end of the arrow stream"));
                }
            };
            self.fill(wanted, chunk);
            if self.part.len() < wanted {
                return Ok(None);
            }
            if let Some(frame) = self.advance()? {
                return Ok(Some(frame));
            }
        }
    }

    fn fill(&mut self, wanted: usize, chunk: &mut Bytes) {
        let missing = wanted - self.part.len();
        let taken = missing.min(chunk.len());
        if self.part.is_empty() {
            // A part of its own for each message, so that its buffers begin aligned.
            self.part = BytesMut::with_capacity(wanted.min(RESERVED_AT_ONCE_BYTES_MAX));
        }
        self.part.extend_from_slice(&chunk[..taken]);
        chunk.advance(taken);
    }

    /// Goes on once the part that was waited for is complete.
    fn advance(&mut self) -> Result<Option<Frame>> {
        let part = std::mem::take(&mut self.part).freeze();
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Prefix => {
                let (marker, length) = part.split_at(4);
                if marker != CONTINUATION {
                    return Err(Error::invalid(
                        "the body is no arrow stream: a message does not begin with its marker",
                    ));
                }
                let length = i32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                match usize::try_from(length) {
                    Ok(0) => return Ok(Some(Frame::End)),
                    Ok(bytes) if bytes <= HEADER_BYTES_MAX => self.state = State::Header(bytes),
                    _ => {
                        return Err(Error::invalid(format!(
                            "arrow message claims a header of {length} bytes; the limit is \
                             {HEADER_BYTES_MAX}"
                        )));
                    }
                }
                Ok(None)
            }
            State::Header(_) => {
                let claimed = body_bytes(&part)?;
                let bytes = usize::try_from(claimed).ok();
                let bytes = bytes.filter(|bytes| *bytes <= self.limits.batch_bytes_max);
                let Some(bytes) = bytes else {
                    return Err(Error::invalid(format!(
                        "arrow message claims a body of {claimed} bytes; the limit \
                         batch_bytes_max is {}: send smaller batches",
                        self.limits.batch_bytes_max
                    )));
                };
                if bytes == 0 {
                    self.state = State::Prefix;
                    return Ok(Some(Frame::Message { header: part, body: Bytes::new() }));
                }
                self.state = State::Body { header: part, bytes };
                Ok(Some(Frame::Body(bytes)))
            }
            State::Body { header, .. } => {
                self.state = State::Prefix;
                Ok(Some(Frame::Message { header, body: part }))
            }
            State::Ended => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch};
    use arrow_ipc::writer::StreamWriter;

    use super::*;
    use crate::ipc_decode::{Decoded, IpcDecoder};

    fn stream(batches: usize) -> Vec<u8> {
        let column = Arc::new(Int64Array::from_iter_values(0..100)) as arrow_array::ArrayRef;
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        (0..batches).for_each(|_| writer.write(&batch).unwrap());
        writer.into_inner().unwrap()
    }

    fn frames(bytes: &[u8], chunk_bytes: usize, limits: &Limits) -> Result<Vec<Frame>> {
        let mut framer = IpcFramer::new(limits);
        let mut found = Vec::new();
        for chunk in bytes.chunks(chunk_bytes) {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(frame) = framer.take(&mut chunk)? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    #[test]
    fn messages_come_whole_however_the_bytes_are_cut() {
        let bytes = stream(3);
        let whole = frames(&bytes, bytes.len(), &Limits::default()).unwrap();
        for chunk_bytes in [1, 7, 64, 1_000] {
            assert_eq!(frames(&bytes, chunk_bytes, &Limits::default()).unwrap(), whole);
        }
        let mut decoder = IpcDecoder::new(&Limits::default());
        let mut rows = 0;
        for frame in &whole {
            if let Frame::Message { header, body } = frame
                && let Decoded::Batch(batch) = decoder.decode(header, body.clone()).unwrap()
            {
                rows += batch.num_rows();
            }
        }
        assert_eq!((rows, whole.last()), (300, Some(&Frame::End)));
    }

    #[test]
    fn a_stream_without_its_end_marker_has_not_ended() {
        let bytes = stream(1);
        let cut = &bytes[..bytes.len() - 8];
        assert!(!frames(cut, 64, &Limits::default()).unwrap().contains(&Frame::End));
    }

    #[test]
    fn what_is_no_stream_or_claims_too_much_is_refused() {
        let refusal = |bytes: &[u8], limits: &Limits| {
            frames(bytes, 64, limits).unwrap_err().message().to_owned()
        };
        let limits = Limits::default();
        assert!(refusal(b"{\"a\": 1, \"b\": 2}", &limits).contains("no arrow stream"));
        let mut long = CONTINUATION.to_vec();
        long.extend(i32::MAX.to_le_bytes());
        assert!(refusal(&long, &limits).contains("header of 2147483647"));
        long.truncate(4);
        long.extend((-1_i32).to_le_bytes());
        assert!(refusal(&long, &limits).contains("-1"));
        let small = Limits { batch_bytes_max: 100, ..Limits::default() };
        assert!(refusal(&stream(1), &small).contains("batch_bytes_max"));
        let mut more = stream(0);
        more.push(1);
        assert!(refusal(&more, &limits).contains("bytes follow"));
    }
}
