//! Which indexes are worth catching up with, and how far their segments are joined.
//!
//! A search compares the rows that an index does not cover one by one. They become a segment of their own
//! once comparing them costs more than searching one segment more. Every segment costs each search a
//! little, so they are joined by size: a new one takes in the newest ones that are not much larger than it.
//! A row is indexed again only when its segment grows by a half: a logarithmic number of times.

use std::sync::Arc;

use lakebed_core::Result;
use lakebed_storage::{At, IndexSummary, Table};

/// Rows without an index that are compared in a few milliseconds.
const FEW_ROWS: u64 = 4_096;
/// The share of a table that is not worth a segment yet, and the most rows that this can be.
const SMALL_SHARE: u64 = 100;
const MANY_ROWS: u64 = 50_000;
/// More segments than these are joined, whatever their sizes.
const SEGMENTS_MAX: usize = 8;

/// What to do for one index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatchUp {
    /// The index.
    pub index: String,
    /// How many of its newest segments are joined with what is new.
    pub segments: usize,
    /// Rows that it does not cover yet.
    pub rows: u64,
}

/// The indexes that ask for it, by their names.
pub fn plan_indexes(indexes: &[IndexSummary]) -> Vec<CatchUp> {
    let worth = |index: &&IndexSummary| {
        let rows = index.indexed_rows.saturating_add(index.unindexed_rows);
        let small = (rows / SMALL_SHARE).clamp(FEW_ROWS, MANY_ROWS);
        index.unindexed_rows >= small
    };
    let planned = indexes.iter().filter(worth).map(|index| CatchUp {
        index: index.name.clone(),
        segments: joined(&index.segment_rows, index.unindexed_rows),
        rows: index.unindexed_rows,
    });
    planned.collect()
}

/// How many of the newest segments are joined with `new` rows, where `rows` are those of the segments,
/// oldest first.
fn joined(rows: &[u64], new: u64) -> usize {
    let mut weight = new;
    let mut count = 0;
    for segment in rows.iter().rev() {
        let is_much_larger = *segment > weight.saturating_mul(2);
        if is_much_larger && rows.len() - count < SEGMENTS_MAX {
            break;
        }
        weight = weight.saturating_add(*segment);
        count += 1;
    }
    count
}

/// Catches up with the indexes of a branch that ask for it; how many, and whether that was all.
///
/// # Errors
/// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
pub async fn catch_up(table: &Arc<Table>, branch: Option<&str>) -> Result<(usize, bool)> {
    let planned = plan_indexes(&table.snapshot(branch, &At::Latest).await?.indexes().await?);
    let mut done = 0;
    for CatchUp { index, segments, .. } in &planned {
        done += usize::from(table.catch_up_index(branch, index, *segments).await?.is_some());
    }
    Ok((done, done == planned.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_joined_by_size() {
        assert_eq!(joined(&[], 10), 0);
        assert_eq!(joined(&[1_000], 10), 0, "a large one is left alone");
        assert_eq!(joined(&[1_000, 10], 10), 1);
        assert_eq!(joined(&[1_000, 40, 20], 10), 2, "what was joined counts");
        assert_eq!(joined(&[20], 10), 1);
        let many = [1 << 20, 1 << 18, 1 << 16, 1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6];
        assert_eq!(joined(&many, 1), 1, "not more segments than these");
    }

    #[test]
    fn rows_are_indexed_a_logarithmic_number_of_times() {
        let (mut segments, mut indexed) = (Vec::new(), 0_u64);
        for _ in 0..10_000 {
            let count = joined(&segments, 100);
            let taken: u64 = segments.drain(segments.len() - count..).sum();
            indexed += taken + 100;
            segments.push(taken + 100);
            assert!(segments.len() <= SEGMENTS_MAX + 1, "{segments:?}");
        }
        let rows = 10_000 * 100;
        assert!(indexed < 14 * rows, "{} times", indexed / rows);
    }
}
