//! Arrow IPC: streams, and files, which are a stream between a magic and a footer.
//!
//! The guard that stands before Arrow's reader in the server stands before it here: a file of some
//! hundred bytes must not ask for terabytes.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use lakebed_core::Limits;
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use lakebed_proto::ipc_stream::{Frame, IpcFramer};

use super::{RowSource, head, text};

const FILE_MAGIC: &[u8] = b"ARROW1";
/// Writers pad the magic of a file to their own alignment.
const PADDING_BYTES_MAX: usize = 64;
const PIECE_BYTES: usize = 256 << 10;
/// Decoded bytes of one batch.
const BATCH_BYTES_MAX: usize = 128 << 20;

pub(super) fn open(path: &Path) -> Result<RowSource, String> {
    let mut file = File::open(path).map_err(text)?;
    file.seek(SeekFrom::Start(stream_begin(&head(path, 128)?))).map_err(text)?;
    let limits = Limits { batch_bytes_max: BATCH_BYTES_MAX, ..Limits::default() };
    let mut batches = Batches {
        file,
        piece: Bytes::new(),
        framer: IpcFramer::new(&limits),
        decoder: IpcDecoder::new(&limits),
        is_over: false,
    };
    let schema = match batches.step()? {
        Some(Decoded::Schema(schema)) => schema,
        _ => return Err("the file does not begin with an Arrow schema".to_owned()),
    };
    Ok(RowSource { schema: SchemaRef::clone(&schema), batches: Box::new(batches) })
}

/// Where the first message begins.
fn stream_begin(head: &[u8]) -> u64 {
    if !head.starts_with(FILE_MAGIC) {
        return 0;
    }
    let mut at = 8;
    while at < PADDING_BYTES_MAX && head.get(at..at + 8).is_some_and(|word| word == [0; 8]) {
        at += 8;
    }
    at as u64
}

struct Batches {
    file: File,
    piece: Bytes,
    framer: IpcFramer,
    decoder: IpcDecoder,
    is_over: bool,
}

impl Batches {
    /// The next message; nothing at the end of the stream.
    fn step(&mut self) -> Result<Option<Decoded>, String> {
        loop {
            let frame = self.framer.take(&mut self.piece).map_err(|error| error.report())?;
            match frame {
                Some(Frame::End) => return Ok(None),
                Some(Frame::Message { header, body }) => {
                    let decoded = self.decoder.decode(&header, body);
                    return decoded.map(Some).map_err(|error| error.report());
                }
                // The body is waited for; its size was checked.
                Some(Frame::Body(_)) => continue,
                None => {}
            }
            let mut piece = vec![0; PIECE_BYTES];
            let read = self.file.read(&mut piece).map_err(text)?;
            if read == 0 {
                return Err("the file ends before its end marker".to_owned());
            }
            piece.truncate(read);
            self.piece = Bytes::from(piece);
        }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            match self.step() {
                Ok(Some(Decoded::Batch(batch))) => return Some(Ok(batch)),
                Ok(Some(_)) => {}
                Ok(None) => self.is_over = true,
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
