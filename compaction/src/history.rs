//! The table `maintenance_history`: what maintenance did by itself, to which table, and how long it took.
//!
//! It is a table like any other, in the database `default`, made at the first entry. What is done to it is
//! not noted, or there would be no end of it.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, TableId};
use lakebed_storage::Lake;

/// The table's name.
pub const HISTORY_TABLE: &str = "maintenance_history";

/// One thing that maintenance did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// When it was done, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The folder of the table below the lake's root.
    pub location: String,
    /// The branch; main when absent.
    pub branch: Option<String>,
    /// `compact`, `index`, `clean` or `sweep_blobs`.
    pub action: &'static str,
    /// The newest version after it.
    pub version: Option<u64>,
    /// Fragments, versions or blobs that are gone.
    pub removed: u64,
    /// Fragments or indexes that took their place.
    pub added: u64,
    /// Bytes that were read for it or that are free now.
    pub bytes: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// Whether a folder is that of the history.
pub fn is_history(location: &str) -> bool {
    let name = location.strip_prefix("default/").unwrap_or_default();
    name.strip_prefix(HISTORY_TABLE).is_some_and(|rest| rest.starts_with(['.', '~']))
}

/// Appends what was done.
///
/// # Errors
/// Those of writing.
pub async fn note_done(lake: &Arc<Lake>, done: &[Done]) -> Result<()> {
    if done.is_empty() {
        return Ok(());
    }
    lake.note_rows(&history_id()?, vec![batch(done)?], None).await
}

/// Deletes what was done before a time, in milliseconds since the Unix epoch.
///
/// # Errors
/// Those of deleting.
pub async fn forget_done(lake: &Arc<Lake>, before_ms: i64) -> Result<()> {
    let id = history_id()?;
    if lake.find_table(&id).await?.is_none() {
        return Ok(());
    }
    let table = lake.insist(&lake.table(&id).await?).await?;
    let filter =
        format!("done_at < arrow_cast({before_ms}, 'Timestamp(Millisecond, Some(\"UTC\"))')");
    match table.delete_rows(None, &filter).await {
        // Somebody's own table of that name.
        Err(error) if error.kind() == ErrorKind::InvalidArgument => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}

fn history_id() -> Result<TableId> {
    TableId::parse(&DatabaseName::default_database(), HISTORY_TABLE)
}

fn batch(done: &[Done]) -> Result<RecordBatch> {
    let number = |of: fn(&Done) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(done.iter().map(of)))
    };
    let maybe = |of: fn(&Done) -> Option<&str>| -> ArrayRef {
        Arc::new(StringArray::from_iter(done.iter().map(of)))
    };
    let at: TimestampMillisecondArray = done.iter().map(|it| Some(it.at_ms)).collect();
    let versions: UInt64Array = done.iter().map(|it| it.version).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("done_at", Arc::new(at.with_timezone("UTC")) as ArrayRef, false),
        ("location", maybe(|it| Some(&it.location)), false),
        ("branch", maybe(|it| it.branch.as_deref()), true),
        ("action", maybe(|it| Some(it.action)), false),
        ("version", Arc::new(versions) as ArrayRef, true),
        ("removed", number(|it| it.removed), false),
        ("added", number(|it| it.added), false),
        ("bytes", number(|it| it.bytes), false),
        ("duration_ms", number(|it| it.duration_ms), false),
        ("error", maybe(|it| it.error.as_deref()), true),
    ])
    .map_err(|error| Error::internal("rows of the history").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_told_from_other_tables() {
        assert!(is_history("default/maintenance_history.lance"));
        assert!(is_history("default/maintenance_history~2.lance"));
        assert!(!is_history("default/maintenance_history2.lance"));
        assert!(!is_history("default/ns/maintenance_history.lance"));
        assert!(!is_history("other/maintenance_history.lance"));
    }
}
