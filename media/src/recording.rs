//! What a recording of a robot says of itself, whatever container it is in.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;

use crate::bytes::Broken;

/// Channels or connections of one recording; real ones have hundreds.
const CHANNELS_MAX: usize = 100_000;
/// Bytes of the name or type of a topic that are kept.
pub(crate) const NAME_BYTES_MAX: usize = 512;
/// Bytes that the topics of one recording may have together, because they are rows of one message.
const TOPICS_BYTES_MAX: usize = 2 << 20;
/// What a topic counts for beside its names.
const TOPIC_BYTES: usize = 64;

/// The container of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordingFormat {
    /// A ROS 1 bag, version 2.0.
    Rosbag1,
    /// One storage file of a ROS 2 bag in SQLite.
    Rosbag2Sqlite3,
    /// MCAP.
    Mcap,
}

impl RecordingFormat {
    /// The name in the column `format`.
    pub fn name(self) -> &'static str {
        match self {
            RecordingFormat::Rosbag1 => "rosbag1",
            RecordingFormat::Rosbag2Sqlite3 => "rosbag2_sqlite3",
            RecordingFormat::Mcap => "mcap",
        }
    }
}

/// The container of a file that is a recording, from its first bytes and its name. An SQLite file is
/// one only if its name ends in `.db3`; a file whose name says so is one even if its bytes are damaged.
pub fn recording_format(head: &[u8], name: &str) -> Option<RecordingFormat> {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let named = match extension.as_deref() {
        Some("bag") => Some(RecordingFormat::Rosbag1),
        Some("mcap") => Some(RecordingFormat::Mcap),
        Some("db3") => Some(RecordingFormat::Rosbag2Sqlite3),
        _ => None,
    };
    if head.starts_with(b"#ROSBAG V") {
        Some(RecordingFormat::Rosbag1)
    } else if head.starts_with(crate::mcap::MAGIC) {
        Some(RecordingFormat::Mcap)
    } else {
        named
    }
}

/// One topic of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub topic: String,
    /// The type of its messages.
    pub type_name: String,
    /// Messages of it.
    pub messages: u64,
    /// The time of its first message, in nanoseconds since 1970 UTC.
    pub start_ns: Option<i64>,
    /// The time of its last message, in nanoseconds since 1970 UTC.
    pub end_ns: Option<i64>,
}

/// What a recording says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordingHeader {
    /// Messages of all topics.
    pub messages: u64,
    /// The time of the first message, in nanoseconds since 1970 UTC.
    pub start_ns: Option<i64>,
    /// The time of the last message, in nanoseconds since 1970 UTC.
    pub end_ns: Option<i64>,
    /// Its topics, by name and type.
    pub topics: Vec<Topic>,
    /// Why the recording could not be read, or not wholly.
    pub error: Option<String>,
}

impl RecordingHeader {
    /// Milliseconds between the first and the last message.
    pub fn duration_ms(&self) -> Option<i64> {
        Some(self.end_ns?.checked_sub(self.start_ns?)? / 1_000_000)
    }
}

/// Messages of one channel or connection, counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) start_ns: Option<u64>,
    pub(crate) end_ns: Option<u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, time_ns: u64) {
        self.add_untimed();
        self.start_ns = Some(self.start_ns.map_or(time_ns, |known| known.min(time_ns)));
        self.end_ns = Some(self.end_ns.map_or(time_ns, |known| known.max(time_ns)));
    }

    /// Counts a message whose time is not known.
    pub(crate) fn add_untimed(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    fn join(&mut self, other: &Tally) {
        self.messages = self.messages.saturating_add(other.messages);
        self.start_ns = self.start_ns.into_iter().chain(other.start_ns).min();
        self.end_ns = self.end_ns.into_iter().chain(other.end_ns).max();
    }
}

/// The channels of a recording by their id: what describes each, and what was counted of it. Either may
/// come first.
pub(crate) struct Channels<Id, D> {
    described: HashMap<Id, D>,
    tallies: HashMap<Id, Tally>,
    /// How many are counted and not described.
    unknown: usize,
}

impl<Id, D> Default for Channels<Id, D> {
    fn default() -> Self {
        Channels { described: HashMap::new(), tallies: HashMap::new(), unknown: 0 }
    }
}

impl<Id: Copy + Display + Eq + Hash, D> Channels<Id, D> {
    /// What is counted of a channel.
    pub(crate) fn tally(&mut self, id: Id) -> Result<&mut Tally, Broken> {
        let known = self.described.len() + self.unknown;
        match self.tallies.entry(id) {
            Entry::Occupied(tally) => Ok(tally.into_mut()),
            Entry::Vacant(place) => {
                if !self.described.contains_key(&id) {
                    check_room(known)?;
                    self.unknown += 1;
                }
                Ok(place.insert(Tally::default()))
            }
        }
    }

    /// Describes a channel; one that is described again keeps its first meaning.
    pub(crate) fn describe(&mut self, id: Id, meaning: D) -> Result<(), Broken> {
        let known = self.described.len() + self.unknown;
        if let Entry::Vacant(place) = self.described.entry(id) {
            match self.tallies.contains_key(&id) {
                true => self.unknown -= 1,
                false => check_room(known)?,
            }
            place.insert(meaning);
        }
        Ok(())
    }

    /// How many channels have messages and no description.
    pub(crate) fn unknown(&self) -> usize {
        self.unknown
    }

    /// The recording: each channel by its name and type, or as `kind` and its id. A channel without
    /// messages is a topic of the recording too.
    pub(crate) fn described(
        self,
        kind: &str,
        names: impl Fn(D) -> (String, String),
        error: Option<String>,
    ) -> RecordingHeader {
        let Channels { mut described, tallies, .. } = self;
        let mut topics: BTreeMap<(String, String), Tally> = BTreeMap::new();
        let mut all = Tally::default();
        for (id, tally) in tallies {
            let topic = match described.remove(&id) {
                Some(meaning) => names(meaning),
                None => (format!("{kind} {id}"), String::new()),
            };
            all.join(&tally);
            topics.entry(topic).or_default().join(&tally);
        }
        for meaning in described.into_values() {
            topics.entry(names(meaning)).or_default();
        }
        header(topics, &all, error)
    }
}

fn check_room(known: usize) -> Result<(), Broken> {
    match known < CHANNELS_MAX {
        true => Ok(()),
        false => {
            let (claimed, limit) = (known as u64 + 1, CHANNELS_MAX as u64);
            Err(Broken::Limit { what: "the number of channels", claimed, limit })
        }
    }
}

/// Several channels may carry one topic, which is one here.
fn header(
    topics: BTreeMap<(String, String), Tally>,
    all: &Tally,
    error: Option<String>,
) -> RecordingHeader {
    let time = |time: Option<u64>| time.and_then(|time| i64::try_from(time).ok());
    let mut kept: Vec<Topic> = Vec::new();
    let (mut bytes, mut left_out) = (0, 0);
    for ((topic, type_name), tally) in topics {
        bytes += topic.len() + type_name.len() + TOPIC_BYTES;
        if bytes > TOPICS_BYTES_MAX {
            left_out += 1;
            continue;
        }
        kept.push(Topic {
            topic,
            type_name,
            messages: tally.messages,
            start_ns: time(tally.start_ns),
            end_ns: time(tally.end_ns),
        });
    }
    let too_many = (left_out > 0).then(|| {
        format!("{left_out} topics are left out: {TOPICS_BYTES_MAX} bytes of topics are kept")
    });
    RecordingHeader {
        messages: all.messages,
        start_ns: time(all.start_ns),
        end_ns: time(all.end_ns),
        topics: kept,
        error: match (error, too_many) {
            (Some(error), Some(too_many)) => Some(format!("{error}; {too_many}")),
            (error, too_many) => error.or(too_many),
        },
    }
}

/// A name from outside, bounded.
pub(crate) fn name_of(bytes: &[u8]) -> String {
    let end = bytes.len().min(NAME_BYTES_MAX);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
