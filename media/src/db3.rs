//! ROS 2 bags in SQLite: topics, counts and times by two queries that read
//! the tables through. What they count is counted here: SQLite would sort all messages in memory.
//!
//! The file may be anybody's. It is opened for reading only and as one that nobody changes, so that no
//! journal beside it is looked for; nothing in its schema may run code; values are limited; and a
//! deadline ends what takes too long.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::bytes::Broken;
use crate::recording::{Channels, NAME_BYTES_MAX, RecordingHeader, name_of};

/// How long the queries on one file may take.
const TIME_MAX: Duration = Duration::from_secs(600);
/// Bytes of one value that SQLite will hold; names and types are what is read.
const VALUE_BYTES_MAX: i32 = 16 << 20;
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 100_000;

/// Reads a storage file. Never fails: what is broken is in [`RecordingHeader::error`].
pub fn read_db3(path: &Path) -> RecordingHeader {
    match read(path) {
        Ok(header) => header,
        Err(broken) => RecordingHeader { error: Some(broken.to_string()), ..Default::default() },
    }
}

fn read(path: &Path) -> Result<RecordingHeader, Broken> {
    let size = std::fs::metadata(path)?.len();
    if size == 0 {
        return Err(Broken::format("the file is empty"));
    }
    let connection = open(path).map_err(broken)?;
    if !has_tables(&connection).map_err(broken)? {
        return Err(Broken::format("the file has no tables `topics` and `messages`"));
    }
    let mut topics = Channels::default();
    let error = count(&connection, &mut topics).err().map(|broken| broken.to_string());
    Ok(topics.described("topic", |names| names, error))
}

fn broken(error: rusqlite::Error) -> Broken {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => {
            Broken::format(format!("the bag's queries took longer than {} s", TIME_MAX.as_secs()))
        }
        _ => Broken::format(format!("the bag cannot be read: {error}")),
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(uri(path), flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // Kibibytes, and negative by SQLite's own convention.
    connection.pragma_update(None, "cache_size", -8_192)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", 2)?;
    let end = Instant::now() + TIME_MAX;
    connection.progress_handler(STEPS, Some(move || Instant::now() > end))?;
    Ok(connection)
}

/// Whether both tables are stored ones: a view or a virtual table would run what its file says.
fn has_tables(connection: &Connection) -> rusqlite::Result<bool> {
    let found: i64 = connection.query_row(
        "SELECT count(DISTINCT lower(name)) FROM sqlite_schema \
         WHERE type = 'table' AND rootpage > 0 AND lower(name) IN ('topics', 'messages')",
        [],
        |row| row.get(0),
    )?;
    Ok(found == 2)
}

/// Counts what is there; what was counted before an error stays.
fn count(
    connection: &Connection,
    topics: &mut Channels<TopicId, (String, String)>,
) -> Result<(), Broken> {
    // As bytes, because of texts `substr` counts characters.
    let names = "SELECT id, substr(CAST(name AS BLOB), 1, ?1), substr(CAST(type AS BLOB), 1, ?1) \
                 FROM topics";
    let name_bytes = i64::try_from(NAME_BYTES_MAX).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(names).map_err(broken)?;
    let mut rows = statement.query([name_bytes]).map_err(broken)?;
    while let Some(row) = rows.next().map_err(broken)? {
        let cell = |at: usize| row.get_ref(at).map_err(broken);
        let name = |value: ValueRef<'_>| match value {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => name_of(bytes),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => String::new(),
        };
        topics.describe(TopicId::of(cell(0)?), (name(cell(1)?), name(cell(2)?)))?;
    }
    let messages = "SELECT topic_id, timestamp FROM messages";
    let mut statement = connection.prepare(messages).map_err(broken)?;
    let mut rows = statement.query([]).map_err(broken)?;
    while let Some(row) = rows.next().map_err(broken)? {
        let cell = |at: usize| row.get_ref(at).map_err(broken);
        let tally = topics.tally(TopicId::of(cell(0)?))?;
        match cell(1)? {
            ValueRef::Integer(time) => tally.add(u64::try_from(time).unwrap_or(0)),
            _ => tally.add_untimed(),
        }
    }
    Ok(())
}

/// The id of a topic; SQLite lets a file have anything in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TopicId(Option<i64>);

impl TopicId {
    fn of(value: ValueRef<'_>) -> Self {
        TopicId(match value {
            ValueRef::Integer(id) => Some(id),
            _ => None,
        })
    }
}

impl std::fmt::Display for TopicId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("without id"),
        }
    }
}

/// The file as SQLite's URI; `immutable` keeps it from looking for journals beside the file.
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = "file:".to_owned();
    // An absolute path needs no authority before it; a relative one must not begin with two slashes.
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri + "?mode=ro&immutable=1"
}
