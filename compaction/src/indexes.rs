//! Which indexes are worth catching up with.
//!
//! A search compares the rows that an index does not cover one by one. Once they are many, the index is
//! built anew. A segment for the new rows alone would be cheaper, and wrong: under stable row ids lance
//! finds a row that was changed by its old value, too, once another segment covers its new one (of text
//! indexes see <https://github.com/lance-format/lance/issues/8085>; B-trees, bitmaps and vectors do the same).

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

/// The indexes that ask for it, by their names.
pub fn plan_indexes(indexes: &[IndexSummary]) -> Vec<String> {
    let worth = |index: &&IndexSummary| is_worth(index.indexed_rows, index.unindexed_rows);
    indexes.iter().filter(worth).map(|index| index.name.clone()).collect()
}

fn is_worth(indexed: u64, unindexed: u64) -> bool {
    let rows = indexed.saturating_add(unindexed);
    unindexed >= (rows / SMALL_SHARE).max(FEW_ROWS)
}

/// Catches up with the indexes of a branch that ask for it; how many. Each build holds `one`, and `pace`
/// rests between two of them. One whose rows are rewritten meanwhile is left as it is: the branch has a newer
/// version then, which is to be looked at anyway.
///
/// # Errors
/// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
pub async fn catch_up(
    table: &Arc<Table>,
    branch: Option<&str>,
    one: &Mutex<()>,
    pace: &Pace,
) -> Result<usize> {
    let planned = plan_indexes(&table.snapshot(branch, &At::Latest).await?.indexes().await?);
    let mut done = 0;
    for index in &planned {
        let turn = one.lock().await;
        let began = Instant::now();
        done += usize::from(table.catch_up_index(branch, index).await?.is_some());
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
}
