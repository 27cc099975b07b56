//! ROS 2 bags in SQLite: topics, counts and times by two queries.
//!
//! The file may be anybody's. It is opened for reading only and as one that nobody changes, so that no
//! journal beside it is looked for; nothing in its schema may run code; values are limited; and a
//! deadline ends what takes too long.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::bytes::Broken;
use crate::recording::{NAME_BYTES_MAX, RecordingHeader, TOPICS_MAX, Tally, joined};

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
    query(path).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => {
            Broken::format(format!("the bag's queries took longer than {} s", TIME_MAX.as_secs()))
        }
        _ => Broken::format(format!("the bag cannot be read: {error}")),
    })
}

fn query(path: &Path) -> rusqlite::Result<RecordingHeader> {
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
    let connection = &mut connection;

    let limit = i64::try_from(TOPICS_MAX).unwrap_or(i64::MAX);
    let mut topics: HashMap<i64, (String, String)> = HashMap::new();
    let name_bytes = i64::try_from(NAME_BYTES_MAX).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(
        "SELECT id, substr(CAST(name AS TEXT), 1, ?1), substr(CAST(type AS TEXT), 1, ?1) \
         FROM topics LIMIT ?2",
    )?;
    let mut rows = statement.query([name_bytes, limit])?;
    while let Some(row) = rows.next()? {
        let name: Option<String> = row.get(1)?;
        let type_name: Option<String> = row.get(2)?;
        topics.insert(row.get(0)?, (name.unwrap_or_default(), type_name.unwrap_or_default()));
    }
    let mut channels = Vec::new();
    let mut statement = connection.prepare(
        "SELECT topic_id, count(*), min(timestamp), max(timestamp) FROM messages \
         GROUP BY topic_id LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    while let Some(row) = rows.next()? {
        let (id, messages): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (start, end): (i64, i64) = (row.get(2)?, row.get(3)?);
        let (topic, type_name) =
            topics.remove(&id).unwrap_or_else(|| (format!("topic {id}"), String::new()));
        let mut tally = Tally::default();
        let time = |time: i64| u64::try_from(time).unwrap_or(0);
        tally.add_many(u64::try_from(messages).unwrap_or(0), time(start), time(end));
        channels.push((topic, type_name, tally));
    }
    let silent = topics.into_values();
    channels.extend(silent.map(|(topic, type_name)| (topic, type_name, Tally::default())));
    Ok(joined(channels, None))
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
