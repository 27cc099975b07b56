//! What a clustering says of each row, and writing it into the columns.
//!
//! ```text
//!   newest version ─► rows whose cells say something else ─► filled, a fragment a file ─┐
//!          ▲                                                                            │
//!          └──────────────────────── until none is left ◄───────────────────────────────┘
//! ```
//!
//! So it does not matter where a row lies by now: rows that were moved meanwhile are found by their ids,
//! rows that are gone are not looked for, and what says the right thing already is not written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, UInt64Builder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use arrow_array::{Array as _, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::{
    At, BatchStream, FragmentValues, Lake, Projection, ScanSpec, Snapshot, Table,
};
use roaring::RoaringBitmap;

/// Looks before it is given up: somebody else writes into the same columns.
const PASSES_MAX: usize = 20;
/// Values of one batch.
const BATCH_ROWS: usize = 8_192;
/// The cluster of a row that has no signature.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// The cluster of each row of a version.
pub(crate) struct Assigned {
    ids: Vec<u64>,
    clusters: Vec<u64>,
    /// The rows by their ids, where they do not come in that order.
    order: Option<Vec<u32>>,
}

/// The rows of a fragment that are to be filled: their places, and which rows of the clustering they are.
type Differing = BTreeMap<u32, (RoaringBitmap, Vec<u32>)>;

/// The columns that are filled and the one that they come from.
pub(crate) struct Columns {
    pub(crate) signature: String,
    pub(crate) cluster: String,
    pub(crate) keep: String,
}

impl Columns {
    /// The fields of the columns that are filled.
    pub(crate) fn fields(&self) -> [Field; 2] {
        [
            Field::new(&self.cluster, DataType::UInt64, true),
            Field::new(&self.keep, DataType::Boolean, true),
        ]
    }
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) version: Option<u64>,
}

impl Assigned {
    /// Rows by their ids, each with its cluster.
    pub(crate) fn new(ids: Vec<u64>, clusters: Vec<u64>) -> Assigned {
        let order = (!ids.is_sorted()).then(|| {
            let mut order: Vec<u32> = (0..ids.len() as u32).collect();
            order.sort_unstable_by_key(|row| ids[*row as usize]);
            order
        });
        Assigned { ids, clusters, order }
    }

    /// The row with an id. Rows mostly come one after the other, so the next one is tried first.
    fn find(&self, id: u64, next: usize) -> Option<usize> {
        if self.ids.get(next) == Some(&id) {
            return Some(next);
        }
        match &self.order {
            None => self.ids.binary_search(&id).ok(),
            Some(order) => {
                let at = order.binary_search_by_key(&id, |row| self.ids[*row as usize]).ok()?;
                Some(order[at] as usize)
            }
        }
    }

    /// The clusters, and the rows that are not the ones to keep.
    pub(crate) fn count(&self) -> (usize, usize) {
        let rows = (0..self.ids.len()).filter_map(|row| self.keep(row));
        rows.fold((0, 0), |(kept, others), keep| match keep {
            true => (kept + 1, others),
            false => (kept, others + 1),
        })
    }

    #[cfg(test)]
    pub(crate) fn clusters(&self) -> &[u64] {
        &self.clusters
    }

    fn cluster(&self, row: usize) -> Option<u64> {
        Some(self.clusters[row]).filter(|cluster| *cluster != UNKNOWN)
    }

    fn keep(&self, row: usize) -> Option<bool> {
        self.cluster(row).map(|cluster| cluster == self.ids[row])
    }

    /// Writes it into the columns.
    ///
    /// # Errors
    /// `Conflict` when somebody else writes into them all the time; those of reading and filling.
    pub(crate) async fn write(
        self: &Arc<Self>,
        lake: &Lake,
        table: &Arc<Table>,
        columns: &Columns,
    ) -> Result<Written> {
        let run = uuid::Uuid::now_v7();
        let names = [columns.cluster.clone(), columns.keep.clone()];
        let sources = [columns.signature.clone()];
        let mut written = Written::default();
        for pass in 0..PASSES_MAX {
            let table = lake.insist(table).await?;
            let snapshot = table.snapshot(None, &At::Latest).await?;
            let differing = self.differing(&snapshot, columns).await?;
            if differing.is_empty() {
                return Ok(written);
            }
            let mut files = snapshot.source_files(&sources)?;
            let mut rows = BTreeMap::new();
            let values = differing.into_iter().map(|(fragment, (places, of))| {
                rows.insert(fragment, of.len() as u64);
                FragmentValues {
                    fragment,
                    source_files: files.remove(&fragment).unwrap_or_default(),
                    places,
                    values: self.values(of, columns),
                    write_id: format!("{run}-{pass}-{fragment}"),
                }
            });
            let values = values.collect();
            let filled = table.fill_columns(None, &names, &sources, values).await?;
            written.version = filled.version.or(written.version);
            written.rows += filled.filled.iter().filter_map(|it| rows.get(it)).sum::<u64>();
        }
        let message = format!(
            "columns `{}` and `{}` changed under each of {PASSES_MAX} looks",
            columns.cluster, columns.keep
        );
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// The rows whose cells say something else.
    async fn differing(&self, snapshot: &Snapshot, columns: &Columns) -> Result<Differing> {
        let Columns { cluster, keep, .. } = columns;
        let names = [cluster.as_str(), keep, "_rowid", "_rowaddr"].map(str::to_owned);
        let projection = Projection::Names(names.to_vec());
        let spec = ScanSpec { projection, ..ScanSpec::default() };
        let (_, mut batches) = snapshot.scan(&spec).await?;
        let mut differing = Differing::new();
        let mut next = 0;
        while let Some(batch) = batches.try_next().await? {
            let (ids, addresses) = (numbers(&batch, "_rowid")?, numbers(&batch, "_rowaddr")?);
            let clusters = numbers(&batch, cluster)?;
            let keeps = batch.column_by_name(keep).and_then(|it| it.as_boolean_opt());
            let keeps = keeps.ok_or_else(|| changed(keep))?;
            for at in 0..batch.num_rows() {
                // Others came after the version that was looked at.
                let Some(row) = self.find(ids.value(at), next) else { continue };
                next = row + 1;
                let has_cluster = clusters.is_valid(at).then(|| clusters.value(at));
                let has_keep = keeps.is_valid(at).then(|| keeps.value(at));
                if (has_cluster, has_keep) == (self.cluster(row), self.keep(row)) {
                    continue;
                }
                let address = addresses.value(at);
                let (fragment, place) = ((address >> 32) as u32, address as u32);
                let (places, rows) = differing.entry(fragment).or_default();
                if places.max().is_some_and(|last| last >= place) {
                    return Err(Error::internal("rows of a scan are not in their order"));
                }
                places.insert(place);
                rows.push(row as u32);
            }
        }
        Ok(differing)
    }

    /// The values of some rows, in batches.
    fn values(self: &Arc<Self>, rows: Vec<u32>, columns: &Columns) -> BatchStream {
        let schema = Arc::new(Schema::new(columns.fields().to_vec()));
        let assigned = Arc::clone(self);
        let starts = (0..rows.len()).step_by(BATCH_ROWS);
        let batches = futures::stream::iter(starts).map(move |start| {
            let rows = &rows[start..(start + BATCH_ROWS).min(rows.len())];
            let mut clusters = UInt64Builder::with_capacity(rows.len());
            let mut keeps = BooleanBuilder::with_capacity(rows.len());
            for row in rows {
                clusters.append_option(assigned.cluster(*row as usize));
                keeps.append_option(assigned.keep(*row as usize));
            }
            let values: [arrow_array::ArrayRef; 2] =
                [Arc::new(clusters.finish()), Arc::new(keeps.finish())];
            RecordBatch::try_new(Arc::clone(&schema), values.to_vec())
                .map_err(|error| Error::internal("values of clusters").with_source(error))
        });
        batches.boxed()
    }
}

/// A column of a scan that has whole numbers.
pub(crate) fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a UInt64Array> {
    let column = batch.column_by_name(name);
    column.and_then(|it| it.as_primitive_opt::<UInt64Type>()).ok_or_else(|| changed(name))
}

fn changed(column: &str) -> Error {
    Error::invalid(format!("column `{column}` has another type by now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_whatever_order_they_come() {
        for ids in [vec![2, 5, 9, 11], vec![9, 2, 11, 5]] {
            let assigned = Assigned::new(ids.clone(), vec![2, 2, UNKNOWN, 11]);
            for next in 0..5 {
                for (row, id) in ids.iter().enumerate() {
                    assert_eq!(assigned.find(*id, next), Some(row), "{id} at {next}");
                }
                for id in [0, 3, 12, UNKNOWN] {
                    assert_eq!(assigned.find(id, next), None);
                }
            }
            assert_eq!(assigned.cluster(2), None);
            assert_eq!(assigned.keep(2), None);
            assert_eq!(assigned.keep(0), Some(ids[0] == 2));
        }
    }
}
