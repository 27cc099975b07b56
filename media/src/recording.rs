//! What a recording of a robot says of itself, whatever container it is in.

use std::collections::BTreeMap;

/// Topics that are kept of one recording; real ones have hundreds.
pub const TOPICS_MAX: usize = 100_000;
/// Bytes of the name or type of a topic that are kept.
pub(crate) const NAME_BYTES_MAX: usize = 4 << 10;

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
        self.add_many(1, time_ns, time_ns);
    }

    pub(crate) fn add_many(&mut self, messages: u64, start_ns: u64, end_ns: u64) {
        self.messages = self.messages.saturating_add(messages);
        self.start_ns = Some(self.start_ns.map_or(start_ns, |known| known.min(start_ns)));
        self.end_ns = Some(self.end_ns.map_or(end_ns, |known| known.max(end_ns)));
    }
}

/// Joins what was counted of each channel into topics: several channels may carry one.
pub(crate) fn joined(
    channels: impl IntoIterator<Item = (String, String, Tally)>,
    error: Option<String>,
) -> RecordingHeader {
    let mut topics: BTreeMap<(String, String), Tally> = BTreeMap::new();
    let mut all = Tally::default();
    for (topic, type_name, tally) in channels {
        let known = topics.entry((topic, type_name)).or_default();
        for sum in [known, &mut all] {
            if let (Some(start), Some(end)) = (tally.start_ns, tally.end_ns) {
                sum.add_many(tally.messages, start, end);
            }
        }
    }
    let time = |time: Option<u64>| time.and_then(|time| i64::try_from(time).ok());
    RecordingHeader {
        messages: all.messages,
        start_ns: time(all.start_ns),
        end_ns: time(all.end_ns),
        topics: topics
            .into_iter()
            .map(|((topic, type_name), tally)| Topic {
                topic,
                type_name,
                messages: tally.messages,
                start_ns: time(tally.start_ns),
                end_ns: time(tally.end_ns),
            })
            .collect(),
        error,
    }
}

/// A name from outside, bounded.
pub(crate) fn name_of(bytes: &[u8]) -> String {
    let end = bytes.len().min(NAME_BYTES_MAX);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
