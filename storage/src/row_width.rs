//! How wide the rows of a read are, so that its batches come out at about one size.
//!
//! Why it exists: lance cuts batches by rows, and its own way to cut them by bytes believes whatever
//! the batch before took in memory. A page's dictionary counts as part of each of its batches there, so
//! a dictionary larger than the batch makes every batch smaller than the one before, down to single
//! rows. The size of a file says little as well: a dictionary or a run stores a value once that a batch
//! holds for each row. So columns of one width are counted by their type, and the others by a few of
//! their rows.

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use futures::TryStreamExt;
use lakebed_core::Result;
use lance::Dataset;
use lance::dataset::scanner::FragmentSlice;

use crate::lance_error::from_lance;
use crate::scan::{Projection, ScanSpec, Slice, whole_fragments};
use crate::snapshot::Snapshot;
use crate::write::batch_bytes;

/// Rows that are looked at in each of [`SPOTS`] places.
const SPOT_ROWS: u64 = 32;
const SPOTS: u64 = 3;
/// A first row from this size makes the others of its place too dear to look at.
const WIDE_ROW_BYTES: u64 = 256 << 10;
/// What a row of a column is taken for where no row could be looked at.
const UNKNOWN_ROW_BYTES: u64 = 4 << 10;
/// What a blob's descriptor takes, about.
const DESCRIPTOR_BYTES: u64 = 64;

impl Snapshot {
    /// Rows of a read that make about `bytes` in memory, from 1 to `rows_max`.
    ///
    /// # Errors
    /// Those of reading a few rows.
    pub(crate) async fn rows_of(&self, spec: &ScanSpec, bytes: u64, rows_max: u64) -> Result<u64> {
        Ok((bytes / row_width(&self.dataset, spec).await?).clamp(1, rows_max))
    }
}

/// Bytes of a row of a read in memory, at least one.
///
/// # Errors
/// Those of reading a few rows.
pub(crate) async fn row_width(dataset: &Dataset, spec: &ScanSpec) -> Result<u64> {
    let mut row_bytes = 0_u64;
    let mut variable = Vec::new();
    for field in &dataset.schema().fields {
        if !reads(spec, &field.name) {
            continue;
        }
        if field.is_blob() {
            row_bytes = row_bytes.saturating_add(DESCRIPTOR_BYTES);
            continue;
        }
        match fixed_bytes(&field.data_type()) {
            Some(width) => row_bytes = row_bytes.saturating_add(width),
            None => variable.push(field.name.as_str()),
        }
    }
    if !variable.is_empty() {
        let seen = look(dataset, &variable, spec.slices.as_deref()).await?;
        row_bytes = row_bytes.saturating_add(seen);
    }
    Ok(row_bytes.max(1))
}

/// Bytes of a row of `columns`, the largest mean of a few places.
async fn look(dataset: &Dataset, columns: &[&str], slices: Option<&[Slice]>) -> Result<u64> {
    let all: Vec<Slice>;
    let slices = match slices {
        Some(slices) => slices,
        None => {
            all = whole_fragments(dataset);
            &all
        }
    };
    // Slices come from tickets, which may say anything; lance refuses what does not exist.
    let total = slices.iter().fold(0, |sum: u64, slice| sum.saturating_add(slice.rows));
    let mut widest = None;
    for spot in 0..SPOTS {
        let Some((fragment, start, rows)) = at(slices, total / SPOTS * spot) else { continue };
        let seen = row_bytes(dataset, columns, fragment, start, 1).await?;
        let seen = match seen {
            Some(width) if width >= WIDE_ROW_BYTES => seen,
            _ if rows > 1 => {
                row_bytes(dataset, columns, fragment, start, rows.min(SPOT_ROWS)).await?
            }
            _ => seen,
        };
        widest = widest.max(seen);
    }
    Ok(widest.unwrap_or(UNKNOWN_ROW_BYTES))
}

/// The mean row of a few; `None` where all of them are deleted.
async fn row_bytes(
    dataset: &Dataset,
    columns: &[&str],
    fragment: u32,
    start: u64,
    rows: u64,
) -> Result<Option<u64>> {
    let mut scanner = dataset.scan();
    scanner.project(columns).map_err(from_lance)?;
    let slice = FragmentSlice { fragment_id: fragment, row_offset: start, row_count: rows };
    scanner.with_fragment_slices(&[slice]).await.map_err(from_lance)?;
    scanner.batch_size(SPOT_ROWS as usize);
    let stream = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(from_lance)?;
    let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let bytes: u64 = batches.iter().map(batch_bytes).sum();
    Ok(bytes.checked_div(rows))
}

/// The place of the `row`-th row of `slices`: fragment, position, and how many rows follow there.
fn at(slices: &[Slice], mut row: u64) -> Option<(u32, u64, u64)> {
    for slice in slices {
        if row < slice.rows {
            return Some((slice.fragment, slice.start.saturating_add(row), slice.rows - row));
        }
        row -= slice.rows;
    }
    None
}

/// Whether a read has to look at a column. An expression is only searched for its name: one column too
/// many makes smaller batches and nothing else.
fn reads(spec: &ScanSpec, column: &str) -> bool {
    let in_filter = spec.filter.as_ref().is_some_and(|filter| filter.contains(column));
    in_filter
        || match &spec.projection {
            Projection::All => true,
            Projection::Names(names) => names.iter().any(|name| name == column),
            Projection::Expressions(pairs) => pairs.iter().any(|(_, sql)| sql.contains(column)),
        }
}

/// The bytes of each value of a type; `None` where they differ.
fn fixed_bytes(data_type: &DataType) -> Option<u64> {
    match data_type {
        DataType::Null => Some(0),
        DataType::Boolean => Some(1),
        DataType::FixedSizeBinary(width) => u64::try_from(*width).ok(),
        DataType::FixedSizeList(child, length) => {
            Some(fixed_bytes(child.data_type())?.saturating_mul(u64::try_from(*length).ok()?))
        }
        DataType::Struct(children) => {
            let widths = children.iter().map(|child| fixed_bytes(child.data_type()));
            widths.reduce(|sum, width| Some(sum?.saturating_add(width?))).unwrap_or(Some(0))
        }
        other => other.primitive_width().map(|width| width as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array};
    use futures::StreamExt;

    use super::*;
    use crate::{At, test_lake};

    /// The batches of a scan of a table of `id` and `cell`, written in batches of `cells`.
    async fn scanned(written: usize, cells: BinaryArray, spec: ScanSpec) -> Vec<RecordBatch> {
        let (lake, _folder) = test_lake::lake().await;
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..cells.len() as i64));
        let columns: [(&str, ArrayRef); 2] = [("id", ids), ("cell", Arc::new(cells))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let (_, _, options) = test_lake::row(0);
        let batches = futures::stream::iter(vec![batch.clone(); written]).map(Ok).boxed();
        let id = test_lake::id("t");
        lake.create_table(&id, batch.schema(), batches, options).await.unwrap();
        let table = lake.table(&id).await.unwrap();
        let snapshot = table.snapshot(None, &At::Latest).await.unwrap();
        let (_, batches) = snapshot.scan(&spec).await.unwrap();
        batches.map(Result::unwrap).collect().await
    }

    fn noise(rows: usize, width: usize) -> BinaryArray {
        let mut cell = vec![0; width];
        BinaryArray::from_iter_values((0..rows).map(|_| {
            getrandom::fill(&mut cell).unwrap();
            cell.clone()
        }))
    }

    #[tokio::test]
    async fn a_large_dictionary_does_not_make_small_batches() {
        let written = 5;
        let batches = scanned(written, noise(2_000, 4_096), ScanSpec::default()).await;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, written * 2_000);
        assert!(batches.len() <= 2 * written * 2, "{} batches", batches.len());
        assert!(batches.iter().all(|batch| batch_bytes(batch) <= 5 << 20));
    }

    #[tokio::test]
    async fn a_value_that_is_stored_once_counts_for_every_row() {
        let cell = vec![7; 20_000];
        let cells = BinaryArray::from_iter_values((0..2_000).map(|_| &cell));
        let batches = scanned(3, cells, ScanSpec::default()).await;
        assert!(batches.iter().all(|batch| batch_bytes(batch) <= 5 << 20));
    }

    #[tokio::test]
    async fn only_what_is_read_counts() {
        let narrow = ScanSpec {
            projection: Projection::Names(vec!["id".to_owned()]),
            ..ScanSpec::default()
        };
        assert_eq!(scanned(1, noise(2_000, 4_096), narrow.clone()).await.len(), 1);
        let filtered = ScanSpec { filter: Some("cell IS NOT NULL".to_owned()), ..narrow };
        assert!(scanned(1, noise(2_000, 4_096), filtered).await.len() > 1);
    }
}
