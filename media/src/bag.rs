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

use std::collections::HashMap;
use std::io::{Read, Seek};

use crate::bytes::{Broken, Slice};
use crate::recording::{RecordingHeader, TOPICS_MAX, Tally, joined, name_of};
use crate::walker::{Decoded, Walker};

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
    /// Whether it was looked into.
    is_scanned: bool,
}

#[derive(Default)]
struct Bag {
    connections: HashMap<u32, Connection>,
    tallies: HashMap<u32, Tally>,
    chunks: Vec<Chunk>,
    is_closed: bool,
    decoded: u64,
}

/// Reads a bag. Never fails: what is broken is in [`RecordingHeader::error`].
pub fn read_bag<R: Read + Seek>(reader: R) -> RecordingHeader {
    let mut bag = Bag::default();
    let error = bag.read(reader).err().map(|broken| broken.to_string());
    let Bag { mut connections, tallies, .. } = bag;
    let unknown = tallies.keys().filter(|id| !connections.contains_key(*id)).count();
    let error = error.or_else(|| {
        (unknown > 0).then(|| format!("{unknown} connections have messages and no description"))
    });
    let mut channels: Vec<_> = Vec::new();
    for (id, tally) in tallies {
        let (topic, type_name) = match connections.remove(&id) {
            Some(connection) => (connection.topic, connection.type_name),
            None => (format!("connection {id}"), String::new()),
        };
        channels.push((topic, type_name, tally));
    }
    // A topic without messages is one of the recording.
    let silent = connections.into_values();
    channels.extend(silent.map(|found| (found.topic, found.type_name, Tally::default())));
    joined(channels, error)
}

impl Bag {
    fn read<R: Read + Seek>(&mut self, reader: R) -> Result<(), Broken> {
        let mut walker = Walker::new(reader)?;
        if walker.left() == 0 {
            return Err(Broken::format("the file is empty"));
        }
        let mut magic = [0; MAGIC.len()];
        walker.fill(&mut magic, "the first line")?;
        if magic != MAGIC {
            return Err(Broken::format("the file is no bag of version 2.0"));
        }
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
                Some(2) => self.message(&fields),
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
        self.chunks.push(Chunk {
            at: walker.at(),
            // A chunk that is cut is read as far as it is there.
            size: size.min(walker.left()),
            compression: fields.get("compression").unwrap_or_default().to_vec(),
            is_indexed: false,
            is_scanned: false,
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
        self.check_room(id)?;
        let tally = self.tallies.entry(id).or_default();
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

    fn check_room(&self, id: u32) -> Result<(), Broken> {
        let known = self.tallies.len().max(self.connections.len());
        let is_new = !self.tallies.contains_key(&id) && !self.connections.contains_key(&id);
        if is_new && known >= TOPICS_MAX {
            let (claimed, limit) = (known as u64 + 1, TOPICS_MAX as u64);
            return Err(Broken::Limit { what: "the number of connections", claimed, limit });
        }
        Ok(())
    }

    fn connection(&mut self, fields: &Fields<'_>, data: &[u8]) -> Result<(), Broken> {
        let (Some(id), Some(topic)) = (fields.u32("conn"), fields.get("topic")) else {
            return Err(Broken::format("a connection has no id or no topic"));
        };
        self.check_room(id)?;
        let type_name = Fields(data).get("type").map(name_of).unwrap_or_default();
        // An id that is described again keeps its first meaning.
        let connection = Connection { topic: name_of(topic), type_name };
        self.connections.entry(id).or_insert(connection);
        Ok(())
    }

    fn message(&mut self, fields: &Fields<'_>) {
        if let (Some(id), Some(time)) = (fields.u32("conn"), fields.get("time").and_then(time_ns))
            && self.check_room(id).is_ok()
        {
            self.tallies.entry(id).or_default().add(time);
        }
    }

    /// Looks into chunks that no index describes, and into others while a connection is unknown.
    fn scan<R: Read + Seek>(&mut self, walker: &mut Walker<R>) -> Result<(), Broken> {
        let mut first = Ok(());
        let decoded_max = walker.decoded_bytes_max();
        for at in 0..self.chunks.len() {
            let is_unknown = self.tallies.keys().any(|id| !self.connections.contains_key(id));
            let chunk = &mut self.chunks[at];
            if chunk.is_scanned || (chunk.is_indexed && !is_unknown) {
                continue;
            }
            chunk.is_scanned = true;
            let (start, size, is_indexed) = (chunk.at, chunk.size, chunk.is_indexed);
            let compression = std::mem::take(&mut chunk.compression);
            let outcome = walker.decoded(start, size, &compression).and_then(|mut decoded| {
                let outcome = self.scan_chunk(&mut decoded, is_indexed, decoded_max);
                self.decoded = self.decoded.saturating_add(decoded.bytes());
                outcome
            });
            first = first.and(outcome);
        }
        first
    }

    fn scan_chunk(
        &mut self,
        decoded: &mut Decoded<'_>,
        is_indexed: bool,
        decoded_max: u64,
    ) -> Result<(), Broken> {
        let mut size = [0; 4];
        while decoded.fill(&mut size)? {
            let budget = decoded_max.saturating_sub(self.decoded + decoded.bytes());
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
            if data_size > budget {
                let (claimed, limit) = (data_size, decoded_max);
                return Err(Broken::Limit { what: "a chunk, decoded,", claimed, limit });
            }
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
                        self.message(&fields);
                    }
                    if !decoded.skip(data_size, budget)? {
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
