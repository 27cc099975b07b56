//! MCAP: topics, counts and times from the message indexes behind each chunk.
//!
//! ```text
//!   magic, then records: kind (1 byte), size (8), content
//!     1 header · 3 schema · 4 channel · 5 message · 6 chunk (records again), then 7 index of each channel
//!     15 end of data · the summary (3, 4, 8, 11 …) · 2 footer · magic
//! ```
//!
//! The walk goes from record to record and passes over the chunks. Only a chunk that has no index behind
//! it, or that alone knows a channel, is decoded, while it is read. The summary at the end is not
//! trusted for counts: a file that was cut has none, and a wrong one would not be noticed.

use std::collections::HashMap;
use std::io::{Read, Seek};

use crate::bytes::{Broken, Slice};
use crate::recording::{Channels, RecordingHeader, name_of};
use crate::walker::{COMPRESSION_BYTES_MAX, Decoded, Walker};

/// The first and the last bytes of a file.
pub(crate) const MAGIC: &[u8] = b"\x89MCAP0\r\n";
/// Bytes of a schema or a channel.
const RECORD_BYTES_MAX: u64 = 64 << 20;
/// Chunks of one file.
const CHUNKS_MAX: usize = 1 << 20;
/// Entries of an index are read in pieces of this many.
const ENTRIES: u64 = 4_096;
const ENTRY_BYTES: u64 = 16;
/// The fields of a message before its data.
const MESSAGE_BYTES: u64 = 22;

mod kind {
    pub(super) const FOOTER: u8 = 2;
    pub(super) const SCHEMA: u8 = 3;
    pub(super) const CHANNEL: u8 = 4;
    pub(super) const MESSAGE: u8 = 5;
    pub(super) const CHUNK: u8 = 6;
    pub(super) const MESSAGE_INDEX: u8 = 7;
}

struct Channel {
    topic: String,
    schema: u16,
}

struct Chunk {
    at: u64,
    size: u64,
    compression: Vec<u8>,
    is_indexed: bool,
}

#[derive(Default)]
struct Mcap {
    schemas: HashMap<u16, String>,
    channels: Channels<u16, Channel>,
    chunks: Vec<Chunk>,
    is_closed: bool,
}

/// Reads an MCAP file. Never fails: what is broken is in [`RecordingHeader::error`].
pub fn read_mcap<R: Read + Seek>(reader: R) -> RecordingHeader {
    let mut mcap = Mcap::default();
    let error = mcap.read(reader).err().map(|broken| broken.to_string());
    let Mcap { channels, schemas, .. } = mcap;
    let unknown = channels.unknown();
    let error = error.or_else(|| {
        (unknown > 0).then(|| format!("{unknown} channels have messages and no description"))
    });
    let type_of = |schema: u16| schemas.get(&schema).cloned().unwrap_or_default();
    let names = |channel: Channel| (channel.topic, type_of(channel.schema));
    channels.described("channel", names, error)
}

impl Mcap {
    fn read<R: Read + Seek>(&mut self, reader: R) -> Result<(), Broken> {
        let mut walker = Walker::begin(reader, MAGIC, "MCAP")?;
        let walked = self.walk(&mut walker);
        let scanned = self.scan(&mut walker);
        walked?;
        scanned?;
        match self.is_closed {
            true => Ok(()),
            false => Err(Broken::format("the file was not closed: it has no footer")),
        }
    }

    fn walk<R: Read + Seek>(&mut self, walker: &mut Walker<R>) -> Result<(), Broken> {
        while walker.left() > 0 && !self.is_closed {
            let mut head = [0; 9];
            walker.fill(&mut head, "a record")?;
            let size = Slice(&head[1..]).u64_le().unwrap_or(u64::MAX);
            let next = walker.at().saturating_add(size);
            match head[0] {
                kind::FOOTER => self.is_closed = true,
                kind::SCHEMA => {
                    self.schema(&walker.take(size, RECORD_BYTES_MAX, "a schema")?);
                }
                kind::CHANNEL => {
                    self.channel(&walker.take(size, RECORD_BYTES_MAX, "a channel")?)?;
                }
                kind::MESSAGE => {
                    let fields =
                        walker.take(size.min(MESSAGE_BYTES), MESSAGE_BYTES, "a message")?;
                    self.message(&fields)?;
                }
                kind::CHUNK => self.chunk(walker, size)?,
                kind::MESSAGE_INDEX => self.index(walker, size)?,
                _ => {}
            }
            let rest = next.saturating_sub(walker.at());
            walker.skip(rest, "a record")?;
        }
        Ok(())
    }

    fn schema(&mut self, content: &[u8]) {
        let mut at = Slice(content);
        if let (Some(id), Some(name)) = (at.u16_le(), at.prefixed()) {
            self.schemas.entry(id).or_insert_with(|| name_of(name));
        }
    }

    fn channel(&mut self, content: &[u8]) -> Result<(), Broken> {
        let mut at = Slice(content);
        match (at.u16_le(), at.u16_le(), at.prefixed()) {
            (Some(id), Some(schema), Some(topic)) => {
                self.channels.describe(id, Channel { topic: name_of(topic), schema })
            }
            _ => Ok(()),
        }
    }

    fn message(&mut self, fields: &[u8]) -> Result<(), Broken> {
        let mut at = Slice(fields);
        if let (Some(id), Some(_sequence), Some(time)) = (at.u16_le(), at.u32_le(), at.u64_le()) {
            self.channels.tally(id)?.add(time);
        }
        Ok(())
    }

    fn chunk<R: Read + Seek>(&mut self, walker: &mut Walker<R>, size: u64) -> Result<(), Broken> {
        if self.chunks.len() == CHUNKS_MAX {
            let (claimed, limit) = (CHUNKS_MAX as u64 + 1, CHUNKS_MAX as u64);
            return Err(Broken::Limit { what: "the number of chunks", claimed, limit });
        }
        // Times, size when decoded and checksum, then the name of the compression and the records.
        let mut fields = [0; 32];
        walker.fill(&mut fields, "a chunk")?;
        let name_size = Slice(&fields[28..]).u32_le().unwrap_or(u32::MAX);
        let compression = walker.take(
            name_size.into(),
            COMPRESSION_BYTES_MAX as u64,
            "the compression of a chunk",
        )?;
        let mut records = [0; 8];
        walker.fill(&mut records, "a chunk")?;
        let records = u64::from_le_bytes(records);
        if records > size {
            return Err(Broken::format(format!(
                "a chunk of {size} bytes claims {records} bytes of records"
            )));
        }
        self.chunks.push(Chunk {
            at: walker.at(),
            // A chunk that is cut is read as far as it is there.
            size: records.min(walker.left()),
            compression,
            is_indexed: false,
        });
        Ok(())
    }

    fn index<R: Read + Seek>(&mut self, walker: &mut Walker<R>, size: u64) -> Result<(), Broken> {
        let mut fields = [0; 6];
        walker.fill(&mut fields, "an index")?;
        let mut at = Slice(&fields);
        let (id, bytes) = (at.u16_le().unwrap_or(0), u64::from(at.u32_le().unwrap_or(0)));
        if bytes > size {
            return Err(Broken::format(format!("an index of {size} bytes claims {bytes}")));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.is_indexed = true;
        }
        let mut left = bytes / ENTRY_BYTES;
        let tally = self.channels.tally(id)?;
        while left > 0 {
            let entries = left.min(ENTRIES);
            let piece = walker.take(entries * ENTRY_BYTES, ENTRIES * ENTRY_BYTES, "an index")?;
            for entry in piece.chunks_exact(ENTRY_BYTES as usize) {
                if let Some(time) = Slice(entry).u64_le() {
                    tally.add(time);
                }
            }
            left -= entries;
        }
        Ok(())
    }

    /// Looks into chunks that no index describes, and into others while a channel is unknown.
    fn scan<R: Read + Seek>(&mut self, walker: &mut Walker<R>) -> Result<(), Broken> {
        let mut first = Ok(());
        for chunk in std::mem::take(&mut self.chunks) {
            if chunk.is_indexed && self.channels.unknown() == 0 {
                continue;
            }
            let outcome = walker
                .decoded(chunk.at, chunk.size, &chunk.compression)
                .and_then(|mut decoded| self.scan_chunk(&mut decoded, chunk.is_indexed));
            first = first.and(outcome);
        }
        first
    }

    fn scan_chunk(&mut self, decoded: &mut Decoded<'_>, is_indexed: bool) -> Result<(), Broken> {
        let mut head = [0; 9];
        while decoded.fill(&mut head)? {
            let size = Slice(&head[1..]).u64_le().unwrap_or(u64::MAX);
            let taken = match head[0] {
                kind::SCHEMA | kind::CHANNEL => size,
                kind::MESSAGE if !is_indexed => size.min(MESSAGE_BYTES),
                _ => 0,
            };
            let Some(content) = decoded.take(taken, RECORD_BYTES_MAX, "a record")? else { break };
            match head[0] {
                kind::SCHEMA => self.schema(&content),
                kind::CHANNEL => self.channel(&content)?,
                kind::MESSAGE if !is_indexed => self.message(&content)?,
                _ => {}
            }
            if !decoded.skip(size - taken)? {
                break;
            }
        }
        Ok(())
    }
}
