//! Which indexes are worth catching up with.
//!
//! A search compares the rows that an index does not cover one by one. Once they are many, the index
//! is built anew; where they are few, after a while that grows with the table, so that building never
//! takes more than a small part of the time. A segment for the new rows alone would be cheaper, and
//! wrong: under stable row ids lance finds a row that was changed by its old value, too, once another
//! segment covers its new one (of text indexes see
//! <https://github.com/lance-format/lance/issues/8085>; B-trees, bitmaps and vectors do the same).

use std::sync::Arc;
use std::time::Instant;

use lakebed_core::Result;
use lakebed_storage::{At, IndexSummary, Pace, Table};
use tokio::sync::Mutex;

/// Rows without an index that are compared in a few milliseconds.
const FEW_ROWS: u64 = 4_096;
/// The share of a table that is not worth building its index anew: a row is indexed some twenty times
/// while a table doubles.
const SMALL_SHARE: u64 = 20;

/// How long an index that lacks few rows is left as it is, for each row of the table, in milliseconds.
/// A row takes some 0.1 ms to be indexed, so this is a twentieth of the time.
const REST_MS_PER_ROW: u64 = 2;

/// When an index is built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// Not yet, though nothing changes.
    Later,
    /// Not before there are other rows.
    Never,
}

/// When an index is built anew, by what it lacks and when it was built.
pub fn due(index: &IndexSummary, now_ms: i64) -> Due {
    let rows = index.indexed_rows.saturating_add(index.unindexed_rows);
    // Few vectors cannot be trained with: built again, the index would cover nothing again.
    let is_untrained = index.distance.is_some() && index.indexed_rows == 0;
    let built_ms = index.created_at.map_or(0, |at| at.timestamp_millis());
    let age_ms = u64::try_from(now_ms.saturating_sub(built_ms)).unwrap_or(0);
    match index.unindexed_rows {
        0 => Due::Never,
        unindexed if is_worth(index.indexed_rows, unindexed) => Due::Now,
        _ if is_untrained => Due::Never,
        _ if age_ms >= rows.saturating_mul(REST_MS_PER_ROW) => Due::Now,
        _ => Due::Later,
    }
}

/// What catching up did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaughtUp {
    /// Indexes that were built.
    pub built: usize,
    /// Whether one is due later, though nothing changes.
    pub is_pending: bool,
}

fn is_worth(indexed: u64, unindexed: u64) -> bool {
    let rows = indexed.saturating_add(unindexed);
    unindexed >= (rows / SMALL_SHARE).max(FEW_ROWS)
}

/// Catches up with the indexes of a branch that are due. Each build holds `one`, and `pace` rests
/// between two of them. One whose rows are rewritten meanwhile is left as it is: the branch has a newer
/// version then, which is to be looked at anyway.
///
/// # Errors
/// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
pub async fn catch_up(
    table: &Arc<Table>,
    branch: Option<&str>,
    one: &Mutex<()>,
    pace: &Pace,
    now_ms: i64,
) -> Result<CaughtUp> {
    let mut done = CaughtUp::default();
    for index in table.snapshot(branch, &At::Latest).await?.indexes().await? {
        match due(&index, now_ms) {
            Due::Now => {}
            Due::Later => {
                done.is_pending = true;
                continue;
            }
            Due::Never => continue,
        }
        let turn = one.lock().await;
        let began = Instant::now();
        done.built += usize::from(table.catch_up_index(branch, &index.name).await?.is_some());
        drop(turn);
        pace.rest(began.elapsed()).await;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_built_anew_when_it_lacks_a_twentieth() {
        assert!(!is_worth(0, 4_095));
        assert!(is_worth(0, 4_096));
        assert!(!is_worth(1_000_000, 50_000));
        assert!(is_worth(1_000_000, 60_000));
        assert!(!is_worth(u64::MAX, 1));
    }

    #[test]
    fn few_rows_wait_for_as_long_as_the_table_is_large() {
        let index = |indexed_rows, unindexed_rows, distance: Option<&str>| IndexSummary {
            name: "i".to_owned(),
            columns: vec!["a".to_owned()],
            index_type: "BTree".to_owned(),
            type_url: String::new(),
            segments: Vec::new(),
            created_at: chrono::DateTime::from_timestamp_millis(1_000),
            indexed_rows,
            unindexed_rows,
            size_bytes: None,
            details: "{}".to_owned(),
            distance: distance.map(str::to_owned),
            index_version: 1,
        };
        assert_eq!(due(&index(1_000, 0, None), i64::MAX), Due::Never);
        assert_eq!(due(&index(999, 1, None), 2_999), Due::Later);
        assert_eq!(due(&index(999, 1, None), 3_000), Due::Now);
        assert_eq!(due(&index(999_999, 1, Some("l2")), 2_000_000), Due::Later);
        assert_eq!(due(&index(999_999, 1, Some("l2")), 2_001_000), Due::Now);
        assert_eq!(due(&index(0, 100, Some("l2")), i64::MAX), Due::Never, "too few to train");
        assert_eq!(due(&index(0, 100, None), i64::MAX), Due::Now);
        assert_eq!(due(&index(0, 4_096, Some("l2")), 0), Due::Now);
    }
}
