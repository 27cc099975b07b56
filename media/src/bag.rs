//! ROS 1 bags, version 2.0: topics, counts and times from the index beside each chunk.
//!
//! ```text
//!   #ROSBAG V2.0
//!   record: size, header (fields `name=value`), size, data
//!     3 bag header · 5 chunk, then 4 index of each connection in it · … · 7 connections · 6 chunk infos
//! ```
//!
//! The walk goes from record to record and passes over the chunks. Only a chunk that has no index behind
//! it (a bag that was not closed), or that alone knows a connection, is decoded, while it is read.

use std::io::{Read, Seek};

use crate::bytes::{Broken, Slice};
use crate::recording::{Channels, RecordingHeader, name_of};
use crate::walker::{COMPRESSION_BYTES_MAX, Decoded, Walker};

const MAGIC: &[u8] = b"#ROSBAG V2.0\n";
/// Bytes of the header of a record; real ones have less than a kilobyte.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a connection: its definition of messages is the largest part.
const CONNECTION_BYTES_MAX: u64 = 16 << 20;
/// Chunks of one bag.
const CHUNKS_MAX: usize = 1 << 20;
/// Entries of an index are read in pieces of this many.
const ENTRIES: usize = 4_096;
const ENTRY_BYTES: usize = 12;

struct Connection {
    topic: String,
    type_name: String,
}

struct Chunk {
    at: u64,
    size: u64,
    compression: Vec<u8>,
    is_indexed: bool,
}

#[derive(Default)]
struct Bag {
    connections: Channels<u32, Connection>,
    chunks: Vec<Chunk>,
    is_closed: bool,
}

/// Reads a bag. Never fails: what is broken is in [`RecordingHeader::error`].
pub fn read_bag<R: Read + Seek>(reader: R) -> RecordingHeader {
    let mut bag = Bag::default();
    let error = bag.read(reader).err().map(|broken| broken.to_string());
    let unknown = bag.connections.unknown();
    let error = error.or_else(|| {
        (unknown > 0).then(|| format!("{unknown} connections have messages and no description"))
    });
    let names = |found: Connection| (found.topic, found.type_name);
    bag.connections.described("connection", names, error)
}

impl Bag {
    fn read<R: Read + Seek>(&mut self, reader: R) -> Result<(), Broken> {
        let mut walker = Walker::begin(reader, MAGIC, "bag of version 2.0")?;
        let walked = self.walk(&mut walker);
        let scanned = self.scan(&mut walker);
        walked?;
        scanned?;
        match self.is_closed {
            true => Ok(()),
            false => Err(Broken::format("the bag was not closed: it has no index")),
        }
    }

    fn walk<R: Read + Seek>(&mut self, walker: &mut Walker<R>) -> Result<(), Broken> {
        while walker.left() > 0 {
            let size = walker.u32_le("a record")?;
            let header = walker.take(size.into(), HEADER_BYTES_MAX, "the header of a record")?;
            let data_size = u64::from(walker.u32_le("a record")?);
            let fields = Fields(&header);
            let next = walker.at().saturating_add(data_size);
            match fields.op() {
                Some(3) => self.is_closed = fields.u64("index_pos").is_some_and(|at| at > 0),
                Some(5) => self.chunk(walker, &fields, data_size)?,
                Some(4) => self.index(walker, &fields, data_size)?,
                Some(7) => {
                    let data = walker.take(data_size, CONNECTION_BYTES_MAX, "a connection")?;
                    self.connection(&fields, &data)?;
                }
                Some(2) => self.message(&fields)?,
                Some(_) => {}
                None => {
                    let at = walker.at();
                    return Err(Broken::format(format!("the record before byte {at} has no kind")));
                }
            }
            let rest = next.saturating_sub(walker.at());
            walker.skip(rest, "a record")?;
        }
        Ok(())
    }

    fn chunk<R: Read + Seek>(
        &mut self,
        walker: &Walker<R>,
        fields: &Fields<'_>,
        size: u64,
    ) -> Result<(), Broken> {
        if self.chunks.len() == CHUNKS_MAX {
            let (claimed, limit) = (CHUNKS_MAX as u64 + 1, CHUNKS_MAX as u64);
            return Err(Broken::Limit { what: "the number of chunks", claimed, limit });
        }
        let compression = fields.get("compression").unwrap_or_default();
        self.chunks.push(Chunk {
            at: walker.at(),
            // A chunk that is cut is read as far as it is there.
            size: size.min(walker.left()),
            compression: compression[..compression.len().min(COMPRESSION_BYTES_MAX)].to_vec(),
            is_indexed: false,
        });
        Ok(())
    }

    fn index<R: Read + Seek>(
        &mut self,
        walker: &mut Walker<R>,
        fields: &Fields<'_>,
        size: u64,
    ) -> Result<(), Broken> {
        let (Some(id), Some(count)) = (fields.u32("conn"), fields.u32("count")) else {
            return Err(Broken::format("an index names no connection"));
        };
        if u64::from(count) * ENTRY_BYTES as u64 > size {
            return Err(Broken::format(format!("an index claims {count} entries in {size} bytes")));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.is_indexed = true;
        }
        let tally = self.connections.tally(id)?;
        let mut left = count as usize;
        let mut piece = vec![0; ENTRIES.min(left) * ENTRY_BYTES];
        while left > 0 {
            let entries = left.min(ENTRIES);
            let piece = &mut piece[..entries * ENTRY_BYTES];
            walker.fill(piece, "an index")?;
            for entry in piece.chunks_exact(ENTRY_BYTES) {
                if let Some(time) = time_ns(entry) {
                    tally.add(time);
                }
            }
            left -= entries;
        }
        Ok(())
    }

    fn connection(&mut self, fields: &Fields<'_>, data: &[u8]) -> Result<(), Broken> {
        let (Some(id), Some(topic)) = (fields.u32("conn"), fields.get("topic")) else {
            return Err(Broken::format("a connection has no id or no topic"));
        };
        let type_name = Fields(data).get("type").map(name_of).unwrap_or_default();
        self.connections.describe(id, Connection { topic: name_of(topic), type_name })
    }

    fn message(&mut self, fields: &Fields<'_>) -> Result<(), Broken> {
        if let (Some(id), Some(time)) = (fields.u32("conn"), fields.get("time").and_then(time_ns)) {
            self.connections.tally(id)?.add(time);
        }
        Ok(())
    }

    /// Looks into chunks that no index describes, and into others while a connection is unknown.
    fn scan<R: Read + Seek>(&mut self, walker: &mut Walker<R>) -> Result<(), Broken> {
        let mut first = Ok(());
        for chunk in std::mem::take(&mut self.chunks) {
            if chunk.is_indexed && self.connections.unknown() == 0 {
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
        let mut size = [0; 4];
        while decoded.fill(&mut size)? {
            let header_size = u64::from(u32::from_le_bytes(size));
            let Some(header) =
                decoded.take(header_size, HEADER_BYTES_MAX, "the header of a record")?
            else {
                break;
            };
            if !decoded.fill(&mut size)? {
                break;
            }
            let data_size = u64::from(u32::from_le_bytes(size));
            let fields = Fields(&header);
            match fields.op() {
                Some(7) => {
                    let Some(data) =
                        decoded.take(data_size, CONNECTION_BYTES_MAX, "a connection")?
                    else {
                        break;
                    };
                    self.connection(&fields, &data)?;
                }
                op => {
                    if op == Some(2) && !is_indexed {
                        self.message(&fields)?;
                    }
                    if !decoded.skip(data_size)? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The fields of a header.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn get(&self, wanted: &str) -> Option<&'a [u8]> {
        let mut at = Slice(self.0);
        while let Some(field) = at.prefixed() {
            let Some(equals) = field.iter().position(|byte| *byte == b'=') else { continue };
            if &field[..equals] == wanted.as_bytes() {
                return Some(&field[equals + 1..]);
            }
        }
        None
    }

    fn op(&self) -> Option<u8> {
        self.get("op")?.first().copied()
    }

    fn u32(&self, name: &str) -> Option<u32> {
        Slice(self.get(name)?).u32_le()
    }

    fn u64(&self, name: &str) -> Option<u64> {
        Slice(self.get(name)?).u64_le()
    }
}

/// Seconds and nanoseconds as nanoseconds.
fn time_ns(bytes: &[u8]) -> Option<u64> {
    let mut at = Slice(bytes);
    let (seconds, nanoseconds) = (at.u32_le()?, at.u32_le()?);
    Some(u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds))
}
