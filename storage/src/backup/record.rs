//! What a backup says of itself, and how one that was cut off is told from a whole one.
//!
//! `_lakebed/backup.json` is written last: it names a state that is there completely.
//! `_lakebed/backup_running.json` is written first and deleted last: while it is there, something was
//! cut off or is under way, and nobody may take the place for a lake.

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::progress::BackupCounts;
use crate::system::SystemStore;

/// The record of a backup that is whole.
pub(crate) const BACKUP_RECORD: &str = "backup.json";
/// The record of one that is under way.
pub(crate) const RUNNING_RECORD: &str = "backup_running.json";
/// What a backup's record is called once the backup is served, and so a lake of its own.
pub(crate) const ORIGIN_RECORD: &str = "backup_origin.json";

/// The format of these records.
const FORMAT: u32 = 1;

/// A branch in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpBranch {
    /// Its name; main when absent.
    pub branch: Option<String>,
    /// How many versions it has.
    pub versions: u64,
    /// The oldest of them.
    pub oldest: Option<u64>,
    /// The newest.
    pub newest: Option<u64>,
}

/// A table in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpTable {
    /// Its database.
    pub database: String,
    /// Its id in there.
    pub table: String,
    /// Differs between a table and a later one of the same name.
    pub uid: String,
    /// Where it lies below the root.
    pub location: String,
    /// When it was copied last, in milliseconds since the Unix epoch.
    pub copied_at_ms: i64,
    /// Its branches, main first.
    pub branches: Vec<BackedUpBranch>,
    /// Places outside the lake that it refers to, which were not copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<String>,
}

/// `_lakebed/backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// The format of the record.
    pub format: u32,
    /// The lake that it is a backup of.
    pub lake_id: String,
    /// Where that lake lay.
    pub source: String,
    /// When the copying began, in milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// When it was whole.
    pub finished_at_ms: i64,
    /// Whether it was of the whole lake; otherwise of some tables.
    pub is_whole_lake: bool,
    /// What was copied this time.
    pub copied: BackupCounts,
    /// Files that are there now.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The tables that are there.
    pub tables: Vec<BackedUpTable>,
}

/// `_lakebed/backup_running.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunningRecord {
    format: u32,
    pub(super) lake_id: String,
    /// `backup` or `restore`.
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) started_at_ms: i64,
}

impl RunningRecord {
    pub(super) fn new(lake_id: &str, kind: &str, source: &str, started_at_ms: i64) -> Self {
        RunningRecord {
            format: FORMAT,
            lake_id: lake_id.to_owned(),
            kind: kind.to_owned(),
            source: source.to_owned(),
            started_at_ms,
        }
    }
}

impl BackupRecord {
    pub(super) const FORMAT: u32 = FORMAT;
}

/// Reads a record; nothing when there is none.
pub(super) async fn read<T: DeserializeOwned>(
    system: &SystemStore,
    path: &str,
) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let Some(bytes) = system.get(path).await? else { return Ok(None) };
    let damaged = |error: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("the record `_lakebed/{path}` is damaged"))
            .with_source(error)
    };
    let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version.format > FORMAT {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the backup has format {}; this program reads up to format {FORMAT}; nothing was \
                 touched",
                version.format
            ),
        ));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Writes a record.
pub(super) async fn write<T: Serialize>(
    system: &SystemStore,
    path: &str,
    record: &T,
) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::internal("encode a backup's record").with_source(error))?;
    system.put_alone(path, Bytes::from(bytes)).await
}

/// Refuses a place where a backup or restore was cut off.
///
/// # Errors
/// `Unavailable` saying how to go on.
pub(crate) async fn refuse_cut_off(system: &SystemStore, root: &str) -> Result<()> {
    let Some(running) = read::<RunningRecord>(system, RUNNING_RECORD).await? else { return Ok(()) };
    let RunningRecord { kind, source, .. } = running;
    Err(Error::new(
        ErrorKind::Unavailable,
        format!(
            "a {kind} from `{source}` into `{root}` is under way or was cut off: run it again; of a \
             backup that was whole before, `lakebed restore` makes a lake"
        ),
    ))
}
