//! Near duplicates: rows with alike MinHash signatures get the number of their cluster, and one row of each
//! cluster is marked as the one to keep.
//!
//! ```text
//!   signatures of one version ─► clusters (`clusters.rs`) ─► columns `cluster` and `keep` (`assigned.rs`)
//! ```
//!
//! The whole column of signatures is held in memory while it runs: the bytes of a signature and
//! [`ROW_BYTES`] more for each row. What would take more than the limit is refused as soon as the first
//! signature says how long they are. One job of this kind runs at a time.
//!
//! The columns say what holds for the version that was read. Rows that came since, and rows without a
//! signature, have null in both. All rows get their values in one version, unless rows are moved meanwhile.

mod assigned;
mod clusters;
mod rule;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt as _;
use lakebed_core::{Error, Result, Subject, nearest_names};
use lakebed_storage::{At, FieldMetadata, Lake, Projection, ScanSpec, Snapshot, Table};
use serde_json::json;

use self::assigned::{Assigned, Columns, UNKNOWN, numbers};
use self::clusters::{Signatures, clusters};
pub use self::rule::Likeness;
use self::rule::Rule;
use crate::work::SOURCE_VERSION;

/// What a row takes beside its signature: its id, its cluster, and what it is sorted and united by.
const ROW_BYTES: usize = 48;
/// Where a column says that it was made here, and which of the two it is.
const MADE: &str = "lakebed:near_duplicates";
/// Where it says which column of signatures it comes from.
const SIGNATURES: &str = "lakebed:signature_column";

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NearDuplicates {
    /// The column of signatures.
    pub signature: String,
    /// The column for clusters: each row gets the smallest row id of its cluster.
    pub cluster: String,
    /// The column for what is kept: true for the row whose id is its cluster.
    pub keep: String,
    /// What is alike.
    pub likeness: Likeness,
}

/// Sets it when the job is called off, which the thread that computes looks at.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl NearDuplicates {
    /// Checks it against a version of the table.
    ///
    /// # Errors
    /// `NotFound` naming the column of signatures, `InvalidArgument` naming what does not fit.
    pub fn check(&self, snapshot: &Snapshot) -> Result<()> {
        self.likeness.check()?;
        if self.cluster == self.keep {
            return Err(Error::invalid("`cluster` and `keep` have to be two columns"));
        }
        let schema = snapshot.schema();
        let field = schema.field_with_name(&self.signature).map_err(|_| {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let near = nearest_names(&self.signature, names);
            let message = format!("column `{}` does not exist{near}", self.signature);
            Error::not_found(message).about(Subject::Column)
        })?;
        if !matches!(field.data_type(), DataType::Binary | DataType::LargeBinary) {
            return Err(Error::invalid(format!(
                "column `{}` has type {}; signatures are bytes",
                self.signature,
                field.data_type()
            )));
        }
        self.missing(&schema).map(|_| ())
    }

    fn columns(&self) -> Columns {
        Columns {
            signature: self.signature.clone(),
            cluster: self.cluster.clone(),
            keep: self.keep.clone(),
        }
    }

    /// The columns that are still to be made.
    fn missing(&self, schema: &Schema) -> Result<Vec<Field>> {
        let mut missing = Vec::new();
        for (field, what) in self.columns().fields().into_iter().zip(["cluster", "keep"]) {
            let Ok(found) = schema.field_with_name(field.name()) else {
                let made = HashMap::from([(MADE.to_owned(), what.to_owned())]);
                missing.push(field.with_metadata(made));
                continue;
            };
            let is_ours = found.metadata().get(MADE).is_some_and(|made| made == what)
                && found.data_type() == field.data_type();
            if !is_ours {
                let name = field.name();
                let message =
                    format!("column `{name}` exists and has no {what} of near duplicates");
                return Err(Error::invalid(message));
            }
        }
        Ok(missing)
    }

    /// Finds the clusters of the newest version and writes them; what came of it, for the job's record.
    ///
    /// # Errors
    /// Those of [`NearDuplicates::check`]; `InvalidArgument` when the signatures are of several lengths or
    /// too many for `memory_bytes_max`; those of reading and writing.
    pub async fn run(
        &self,
        lake: &Lake,
        table: &Arc<Table>,
        memory_bytes_max: usize,
    ) -> Result<serde_json::Value> {
        let table = lake.insist(table).await?;
        let snapshot = table.snapshot(None, &At::Latest).await?;
        self.check(&snapshot)?;
        let missing = self.missing(&snapshot.schema())?;
        if !missing.is_empty() {
            table.add_null_columns(None, Arc::new(Schema::new(missing))).await?;
        }
        let read = Read::of(&snapshot, &self.signature, memory_bytes_max).await?;
        let (source, slots) = (snapshot.version(), read.signatures.slots());
        drop(snapshot);
        let rule = match slots {
            0 => None,
            slots => Some(self.likeness.rule(slots)?),
        };
        let (rows, without) = (read.ids.len(), read.without);
        let assigned = Arc::new(read.assign(rule).await?);
        let (count, duplicates) = assigned.count();
        let written = assigned.write(lake, &table, &self.columns()).await?;
        let noted = self.note(lake, &table, source).await?;
        Ok(json!({
            "rows": rows - without,
            "rows_without_signature": without,
            "rows_written": written.rows,
            "clusters": count,
            "duplicates": duplicates,
            "slots": slots,
            "rule": rule.map(|rule| rule.shown()),
            "source_version": source,
            "version": written.version.map_or(noted, |version| version.max(noted)),
        }))
    }

    /// Notes on the columns where their values come from.
    async fn note(&self, lake: &Lake, table: &Arc<Table>, source: u64) -> Result<u64> {
        let entries = BTreeMap::from([
            (SIGNATURES.to_owned(), Some(self.signature.clone())),
            (SOURCE_VERSION.to_owned(), Some(source.to_string())),
            ("lakebed:threshold".to_owned(), self.likeness.threshold.map(|it| it.to_string())),
        ]);
        let changes = [&self.cluster, &self.keep].map(|path| FieldMetadata {
            path: path.clone(),
            entries: entries.clone(),
            replace: false,
        });
        lake.insist(table).await?.update_field_metadata(None, &changes).await
    }
}

/// The signatures of a version.
struct Read {
    ids: Vec<u64>,
    /// Their first cluster: themselves, or [`UNKNOWN`] for rows without a signature.
    clusters: Vec<u64>,
    signatures: Signatures,
    /// Which rows the signatures are of. Texts without words have none and are like nobody.
    rows: Vec<u32>,
    without: usize,
}

impl Read {
    async fn of(snapshot: &Snapshot, column: &str, memory_bytes_max: usize) -> Result<Read> {
        let names = [column, "_rowid"].map(str::to_owned).to_vec();
        let spec = ScanSpec { projection: Projection::Names(names), ..ScanSpec::default() };
        let count = usize::try_from(snapshot.count_rows().await?).unwrap_or(usize::MAX);
        check_memory(count, 0, memory_bytes_max)?;
        let mut read = Read {
            ids: Vec::with_capacity(count),
            clusters: Vec::with_capacity(count),
            signatures: Signatures::default(),
            rows: Vec::new(),
            without: 0,
        };
        let (_, mut batches) = snapshot.scan(&spec).await?;
        while let Some(batch) = batches.try_next().await? {
            let signatures = batch.column_by_name(column);
            let signatures =
                signatures.ok_or_else(|| Error::internal("a scan without its column"))?;
            match signatures.data_type() {
                DataType::Binary => {
                    let values = signatures.as_binary::<i32>().iter();
                    read.take(&batch, values, count, memory_bytes_max)?;
                }
                _ => {
                    let values = signatures.as_binary::<i64>().iter();
                    read.take(&batch, values, count, memory_bytes_max)?;
                }
            }
        }
        Ok(read)
    }

    fn take<'a>(
        &mut self,
        batch: &RecordBatch,
        signatures: impl Iterator<Item = Option<&'a [u8]>>,
        count: usize,
        memory_bytes_max: usize,
    ) -> Result<()> {
        for (id, signature) in numbers(batch, "_rowid")?.values().iter().zip(signatures) {
            let row = self.ids.len() as u32;
            self.ids.push(*id);
            self.clusters.push(if signature.is_some() { *id } else { UNKNOWN });
            match signature {
                None => self.without += 1,
                Some([]) => {}
                Some(signature) => {
                    if self.rows.is_empty() {
                        check_memory(count, signature.len(), memory_bytes_max)?;
                        self.signatures = Signatures::new(signature.len(), count);
                        self.rows.reserve(count);
                    }
                    if !self.signatures.push(signature) {
                        return Err(Error::invalid(format!(
                            "a signature has {} bytes and another one {}; they come from different \
                             functions",
                            self.signatures.slots(),
                            signature.len()
                        )));
                    }
                    self.rows.push(row);
                }
            }
        }
        Ok(())
    }

    /// Finds the clusters, on a thread of its own.
    async fn assign(self, rule: Option<Rule>) -> Result<Assigned> {
        let Some(rule) = rule else { return Ok(Assigned::new(self.ids, self.clusters)) };
        let stop = Stop(Arc::default());
        let stopped = Arc::clone(&stop.0);
        let work = tokio::task::spawn_blocking(move || {
            let Read { ids, clusters: mut of_rows, signatures, rows, .. } = self;
            let firsts = clusters(&signatures, &rule, &stopped)?;
            drop(signatures);
            // The first of a cluster gets its smallest id, and the others take it from there.
            for (first, row) in firsts.iter().zip(&rows) {
                let first = rows[*first as usize] as usize;
                of_rows[first] = of_rows[first].min(ids[*row as usize]);
            }
            for (first, row) in firsts.iter().zip(&rows) {
                of_rows[*row as usize] = of_rows[rows[*first as usize] as usize];
            }
            Some(Assigned::new(ids, of_rows))
        });
        let found = work.await.map_err(|error| {
            Error::internal("the thread that clusters broke off").with_source(error)
        })?;
        found.ok_or_else(|| Error::internal("clustering stopped and nobody called it off"))
    }
}

/// Refuses what would take more memory than is allowed.
fn check_memory(rows: usize, slots: usize, bytes_max: usize) -> Result<()> {
    let row_bytes = slots + ROW_BYTES;
    let fits = rows.checked_mul(row_bytes).is_some_and(|bytes| bytes <= bytes_max);
    match fits && u32::try_from(rows).is_ok() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{rows} rows with signatures of {slots} bytes take {row_bytes} bytes each to be clustered, and \
             `near_duplicates_memory_bytes_max` is {bytes_max}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_is_known_by_its_smallest_row_id() {
        let mut signatures = Signatures::new(2, 4);
        for signature in [[1, 2], [3, 4], [1, 2], [3, 4]] {
            assert!(signatures.push(&signature));
        }
        assert!(!signatures.push(&[1]));
        let read = Read {
            ids: vec![40, 10, 30, 20, 50, 60],
            clusters: vec![40, 10, 30, 20, UNKNOWN, 60],
            signatures,
            rows: vec![0, 1, 2, 3],
            without: 1,
        };
        let rule = Rule { bands: 1, band_slots: 2, agreeing_min: None };
        let assigned = read.assign(Some(rule)).await.unwrap();
        assert_eq!(assigned.count(), (3, 2));
        assert_eq!(assigned.clusters(), [30, 10, 30, 10, UNKNOWN, 60]);
    }

    #[test]
    fn more_than_the_memory_is_refused() {
        assert!(check_memory(10, 128, 1_760).is_ok());
        let error = check_memory(10, 128, 1_759).unwrap_err();
        assert!(error.message().contains("near_duplicates_memory_bytes_max"), "{error}");
        assert!(check_memory(usize::MAX, 128, usize::MAX).is_err());
        assert!(check_memory(1 << 32, 0, usize::MAX).is_err());
    }
}
