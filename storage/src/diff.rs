//! The difference between two versions of one branch, row by row.
//!
//! ```text
//!   fragments that are not the same in both
//!      │ row ids and stamps, no columns
//!      ├─► at the begin only ─► deleted
//!      ├─► at the end only ───► inserted
//!      └─► in both, with a newer stamp ─► suspects ─► columns compared ─► updated, or nothing
//! ```
//!
//! Rows are told apart by their stable ids. Lance stamps a row with the version that changed it last,
//! which finds suspects cheaply and says too much: a replaced column stamps every row of its fragment. So
//! the values of suspects are compared, column by column. A restore says too little: it takes values
//! back under their old stamps. Where there was one, every row with another stamp than before is a suspect.
//!
//! What always holds: a row that was moved, by compaction or with a changed neighbour, is not changed;
//! blobs are compared by where their bytes lie and never read, so one that was written again counts as
//! changed; memory is the row ids of fragments that differ, as compressed sets (at most about a bit for
//! each row where ids are dense), and one batch of a few MiB of each version.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use futures::TryStreamExt;
use lakebed_core::{Error, Result, Subject};
use lance::Dataset;
use lance::dataset::ProjectionRequest;
use lance_core::datatypes::{BlobKind, Field, Schema};
use lance_core::{ROW_ADDR, ROW_CREATED_AT_VERSION, ROW_ID, ROW_LAST_UPDATED_AT_VERSION};
use lance_table::format::{DataFile, Fragment};
use roaring::RoaringTreemap;

use crate::column_patch::ids_below;
use crate::expressions::holds_blob;
use crate::history::History;
use crate::lance_error::from_lance;
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::snapshot::Snapshot;

/// Rows of one batch that is compared.
pub(crate) const COMPARED_ROWS_MAX: u64 = 4_096;

/// A column of the end, and what it was at the begin.
#[derive(Debug, Clone)]
pub(crate) struct Compared {
    /// Its name at the end.
    pub(crate) name: String,
    /// Its name at the begin; none where there was no such column.
    pub(crate) was: Option<String>,
    /// Its field's id at the end.
    pub(crate) field: i32,
    /// The ids of the field and of what is below it, in both versions.
    ids: Vec<u32>,
    was_ids: Vec<u32>,
    has_blobs: bool,
}

/// The rows that may differ.
#[derive(Debug, Default)]
pub(crate) struct RowSets {
    pub(crate) deleted: RoaringTreemap,
    pub(crate) inserted: RoaringTreemap,
    /// Rows of both versions that have to be compared.
    pub(crate) suspects: RoaringTreemap,
}

/// What became of a suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    /// These of the compared columns, by their place.
    Changed(Vec<usize>),
    /// Another row under the id of one that was deleted, which only older releases of lance made.
    Other,
}

/// Two versions of one branch.
#[derive(Debug, Clone)]
pub(crate) struct Diff {
    /// None for the empty table before the first version.
    begin: Option<Snapshot>,
    end: Snapshot,
    columns: Arc<Vec<Compared>>,
    /// A column took the place of another one, whose values are not told by stamps.
    has_replaced: bool,
}

impl Diff {
    /// The difference from `begin`, or from the empty table, to `end`; in `columns` of the end alone
    /// where they are given.
    ///
    /// # Errors
    /// `InvalidArgument` when the versions are not of one branch or in the wrong order, or when rows of
    /// the table have no stable ids; `NotFound` for a column.
    pub(crate) fn new(
        begin: Option<&Snapshot>,
        end: &Snapshot,
        columns: Option<&[String]>,
    ) -> Result<Diff> {
        for snapshot in begin.into_iter().chain([end]) {
            if !snapshot.dataset.manifest().uses_stable_row_ids() {
                return Err(Error::invalid(format!(
                    "the rows of version {} have no stable row ids, so it cannot be said which of them \
                     changed",
                    snapshot.version()
                )));
            }
        }
        if let Some(begin) = begin {
            if begin.table().uid() != end.table().uid() || begin.branch() != end.branch() {
                return Err(Error::invalid("the two versions are not of one branch of one table"));
            }
            if begin.version() > end.version() {
                return Err(Error::invalid(format!(
                    "changes go from an older version to a newer one, and version {} is newer than {}",
                    begin.version(),
                    end.version()
                ))
                .about(Subject::Version));
            }
        }
        let new = end.dataset.schema();
        let old = begin.map(|begin| begin.dataset.schema());
        let fields: Vec<&Field> = match columns {
            None => new.fields.iter().collect(),
            Some(names) => {
                let mut fields: Vec<&Field> = Vec::with_capacity(names.len());
                for name in names {
                    let field = new.fields.iter().find(|field| field.name == *name);
                    let field = field.ok_or_else(|| end.unknown_column(name))?;
                    if fields.iter().any(|known| known.id == field.id) {
                        return Err(Error::invalid(format!("column `{name}` is given twice")));
                    }
                    fields.push(field);
                }
                fields
            }
        };
        let (columns, has_replaced) = matched(&fields, new, old, |_, _| true);
        let columns = Arc::new(columns);
        Ok(Diff { begin: begin.cloned(), end: end.clone(), columns, has_replaced })
    }

    /// Which column was which at the begin, by what the versions in between did: a field's id alone does
    /// not say, since lance may give the id of a column that was dropped to another.
    pub(crate) fn settle(&mut self, history: &History) {
        let Some(begin) = &self.begin else { return };
        let new = self.end.dataset.schema();
        let known = |column: &Compared| new.fields.iter().find(|field| field.id == column.field);
        let fields: Vec<&Field> = self.columns.iter().filter_map(known).collect();
        let is_same = |old: &Field, new: &Field| {
            // Where a version is gone, nobody knows what it did.
            !history.has_dropped(old.id) && (history.is_whole() || old.name == new.name)
        };
        let (columns, has_replaced) = matched(&fields, new, Some(begin.dataset.schema()), is_same);
        self.columns = Arc::new(columns);
        self.has_replaced = has_replaced;
    }

    /// Whether a column seems to have had another name, which only the versions in between can tell.
    pub(crate) fn has_renamed(&self) -> bool {
        let is_renamed =
            |column: &Compared| column.was.as_ref().is_some_and(|was| *was != column.name);
        self.columns.iter().any(is_renamed)
    }

    /// The columns that are compared.
    pub(crate) fn columns(&self) -> &[Compared] {
        &self.columns
    }

    /// The older version; none for the empty table.
    pub(crate) fn begin(&self) -> Option<&Snapshot> {
        self.begin.as_ref()
    }

    /// Which rows are gone, new, or have to be compared.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub(crate) async fn rows(&self, history: &History) -> Result<RowSets> {
        let is_rewound = history.is_rewound();
        // Where a version is gone, it may have done what no stamp tells.
        let are_all_suspects = self.has_replaced || !history.is_whole();
        let empty = Vec::new();
        let begin_fragments: &Vec<Fragment> =
            self.begin.as_ref().map_or(&empty, |begin| begin.dataset.fragments().as_ref());
        let end_fragments = self.end.dataset.fragments();
        let (old, new) = match self.has_replaced {
            true => (begin_fragments.clone(), end_fragments.as_ref().clone()),
            false => differing(begin_fragments, end_fragments),
        };
        let mut sets = RowSets::default();
        // Rows by their stamps at the begin. The same stamp in both versions is the same state.
        let mut stamped: HashMap<u64, RoaringTreemap> = HashMap::new();
        let mut begin_version = 0;
        if let Some(begin) = &self.begin {
            begin_version = begin.version();
            each_row(&begin.dataset, old, |_, row, stamp| {
                sets.deleted.insert(row);
                if is_rewound {
                    stamped.entry(stamp).or_default().insert(row);
                }
            })
            .await?;
        }
        // Fragments that another tool wrote without stamps: each of their rows may have changed.
        let unstamped: HashSet<u32> = new
            .iter()
            .filter(|fragment| fragment.last_updated_at_version_meta.is_none())
            .map(|fragment| fragment.id as u32)
            .collect();
        let mut seen = RoaringTreemap::new();
        each_row(&self.end.dataset, new, |address, row, stamp| {
            if !sets.deleted.contains(row) {
                sets.inserted.insert(row);
                return;
            }
            seen.insert(row);
            let is_suspect = stamp > begin_version
                || are_all_suspects
                || (is_rewound && stamped.get(&stamp).is_none_or(|rows| !rows.contains(row)))
                || unstamped.contains(&((address >> 32) as u32));
            if is_suspect {
                sets.suspects.insert(row);
            }
        })
        .await?;
        sets.deleted -= seen;
        Ok(sets)
    }

    /// Rows of a batch that is compared, by the widths of both versions.
    ///
    /// # Errors
    /// Those of reading a few rows.
    pub(crate) async fn batch_rows(&self) -> Result<u64> {
        let spec = |names: Vec<String>| ScanSpec {
            projection: Projection::Names(names),
            ..ScanSpec::default()
        };
        let new = spec(self.columns.iter().map(|column| column.name.clone()).collect());
        let mut rows = self.end.rows_of(&new, BATCH_BYTES, COMPARED_ROWS_MAX).await?;
        if let Some(begin) = &self.begin {
            let old = spec(self.columns.iter().filter_map(|column| column.was.clone()).collect());
            rows = rows.min(begin.rows_of(&old, BATCH_BYTES, COMPARED_ROWS_MAX).await?);
        }
        Ok(rows)
    }

    /// The stamps of rows of the end, in the order of their ids.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub(crate) async fn stamps(&self, rows: &[u64]) -> Result<Vec<u64>> {
        let batch = take(&self.end.dataset, &[], rows).await?;
        Ok(numbers(&batch, ROW_LAST_UPDATED_AT_VERSION)?.to_vec())
    }

    /// Compares rows that are in both versions. A verdict and the stamp at the end for each.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub(crate) async fn compare(&self, rows: &[u64]) -> Result<Vec<(Verdict, u64)>> {
        let Some(begin) = self.begin.as_ref().filter(|_| !rows.is_empty()) else {
            return Ok(Vec::new());
        };
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let olds: Vec<&str> =
            self.columns.iter().filter_map(|column| column.was.as_deref()).collect();
        let new = take(&self.end.dataset, &names, rows).await?;
        let old = take(&begin.dataset, &olds, rows).await?;
        let mut changed: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
        for (place, column) in self.columns.iter().enumerate() {
            let now = named(&new, &column.name)?;
            let mut differs = vec![false; rows.len()];
            match &column.was {
                // A column that was not there had null in every row.
                None => {
                    let nulls = now.logical_nulls();
                    for (row, differs) in differs.iter_mut().enumerate() {
                        *differs = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
                    }
                }
                Some(was) => {
                    let was = named(&old, was)?;
                    match as_type(was, now) {
                        Some(was) => differing_rows(&was, now, 0, rows.len(), &mut differs),
                        // What cannot be compared is said to have changed.
                        None => differs.fill(true),
                    }
                    if column.has_blobs {
                        let old_files = files_of(&begin.dataset, &old, &column.was_ids)?;
                        let new_files = files_of(&self.end.dataset, &new, &column.ids)?;
                        moved_blobs(was, now, (&old_files, &new_files), &mut differs);
                    }
                }
            }
            for (row, _) in differs.iter().enumerate().filter(|(_, differs)| **differs) {
                changed[row].push(place);
            }
        }
        let created = numbers(&new, ROW_CREATED_AT_VERSION)?;
        let was_created = numbers(&old, ROW_CREATED_AT_VERSION)?;
        let stamps = numbers(&new, ROW_LAST_UPDATED_AT_VERSION)?;
        let verdicts = changed.into_iter().enumerate().map(|(row, columns)| {
            let verdict = match columns.is_empty() {
                _ if created[row] != was_created[row] => Verdict::Other,
                true => Verdict::Same,
                false => Verdict::Changed(columns),
            };
            (verdict, stamps[row])
        });
        Ok(verdicts.collect())
    }
}

/// The columns of `fields` with those that they were, by their ids where `is_same` agrees and else by
/// their names; and whether one took the place of another.
fn matched(
    fields: &[&Field],
    new: &Schema,
    old: Option<&Schema>,
    is_same: impl Fn(&Field, &Field) -> bool,
) -> (Vec<Compared>, bool) {
    let olds = || old.into_iter().flat_map(|old| old.fields.iter());
    let by_id = |field: &Field| olds().find(|old| old.id == field.id && is_same(old, field));
    let mut has_replaced = false;
    let columns = fields.iter().map(|field| {
        let was = by_id(field).or_else(|| {
            let is_gone = |old: &Field| {
                new.fields.iter().all(|kept| by_id(kept).is_none_or(|it| it.id != old.id))
            };
            let replaced = olds().find(|old| old.name == field.name && is_gone(old));
            has_replaced |= replaced.is_some();
            replaced
        });
        Compared {
            name: field.name.clone(),
            was: was.map(|was| was.name.clone()),
            field: field.id,
            ids: ids_below(field),
            was_ids: was.map(ids_below).unwrap_or_default(),
            has_blobs: holds_blob(field) || was.is_some_and(holds_blob),
        }
    });
    (columns.collect(), has_replaced)
}

/// The fragments of both sides that the other one does not have with the same rows and values.
fn differing(old: &[Fragment], new: &[Fragment]) -> (Vec<Fragment>, Vec<Fragment>) {
    let by_id: HashMap<u64, &Fragment> =
        old.iter().map(|fragment| (fragment.id, fragment)).collect();
    let is_kept = |fragment: &&Fragment| {
        by_id.get(&fragment.id).is_some_and(|old| {
            let same_files = old.files.len() == fragment.files.len()
                && old.files.iter().zip(&fragment.files).all(|(a, b)| is_same_file(a, b));
            same_files
                && old.overlays == fragment.overlays
                && old.deletion_file == fragment.deletion_file
                && old.row_id_meta == fragment.row_id_meta
        })
    };
    let kept: HashSet<u64> = new.iter().filter(is_kept).map(|fragment| fragment.id).collect();
    let others = |fragments: &[Fragment]| {
        let others = fragments.iter().filter(|fragment| !kept.contains(&fragment.id));
        others.cloned().collect()
    };
    (others(old), others(new))
}

/// The size of a file is only noted where somebody has looked.
fn is_same_file(a: &DataFile, b: &DataFile) -> bool {
    a.path == b.path
        && a.base_id == b.base_id
        && a.fields == b.fields
        && a.column_indices == b.column_indices
}

/// Calls `seen` with address, id and stamp of every row of some fragments. No column is read.
pub(crate) async fn each_row(
    dataset: &Dataset,
    fragments: Vec<Fragment>,
    mut seen: impl FnMut(u64, u64, u64),
) -> Result<()> {
    if fragments.is_empty() {
        return Ok(());
    }
    let mut scanner = dataset.scan();
    scanner.with_fragments(fragments);
    scanner.project(&[ROW_ID, ROW_ADDR, ROW_LAST_UPDATED_AT_VERSION]).map_err(from_lance)?;
    let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        let (rows, addresses) = (numbers(&batch, ROW_ID)?, numbers(&batch, ROW_ADDR)?);
        let stamps = numbers(&batch, ROW_LAST_UPDATED_AT_VERSION)?;
        for ((row, address), stamp) in rows.iter().zip(addresses).zip(stamps) {
            seen(*address, *row, *stamp);
        }
    }
    Ok(())
}

/// Columns of rows by id, in the order of the ids, with where they lie and their stamps.
pub(crate) async fn take(
    dataset: &Arc<Dataset>,
    columns: &[&str],
    rows: &[u64],
) -> Result<RecordBatch> {
    let system = [ROW_ADDR, ROW_CREATED_AT_VERSION, ROW_LAST_UPDATED_AT_VERSION];
    let names = columns.iter().copied().chain(system);
    let projection = ProjectionRequest::from_columns(names, dataset.schema());
    let batch = Box::pin(dataset.take_rows(rows, projection)).await.map_err(from_lance)?;
    match batch.num_rows() == rows.len() {
        true => Ok(batch),
        false => Err(Error::internal("rows of a version were not found by their ids")),
    }
}

pub(crate) fn named<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::internal(format!("column `{name}` was not read")))
}

pub(crate) fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [u64]> {
    named(batch, name)?
        .as_primitive_opt::<UInt64Type>()
        .map(|column| column.values().as_ref())
        .ok_or_else(|| Error::internal(format!("column `{name}` has no numbers")))
}

/// `array` in the type of `like`, which may have other names inside; nothing where that is not possible.
pub(crate) fn as_type(array: &ArrayRef, like: &dyn Array) -> Option<ArrayRef> {
    let to = like.data_type();
    if array.data_type() == to {
        return Some(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    can_cast_types(array.data_type(), to).then(|| cast_with_options(array, to, &options).ok())?
}

/// Marks the rows from `start` on that differ: whole runs are compared, and halved where they do. NaN is
/// the same as itself.
pub(crate) fn differing_rows(
    old: &ArrayRef,
    new: &ArrayRef,
    start: usize,
    rows: usize,
    out: &mut [bool],
) {
    if rows == 0 || old.slice(start, rows).to_data() == new.slice(start, rows).to_data() {
        return;
    }
    if rows == 1 {
        out[start] = true;
        return;
    }
    let half = rows / 2;
    differing_rows(old, new, start, half, out);
    differing_rows(old, new, start + half, rows - half, out);
}

/// The file that holds a field, for each row of a batch.
struct Files<'a> {
    of_row: Vec<Option<&'a DataFile>>,
}

fn files_of<'a>(dataset: &'a Dataset, batch: &RecordBatch, ids: &[u32]) -> Result<Files<'a>> {
    let addresses = numbers(batch, ROW_ADDR)?;
    let mut known: HashMap<u64, Option<&DataFile>> = HashMap::new();
    let of_row = addresses.iter().map(|address| {
        let id = address >> 32;
        *known.entry(id).or_insert_with(|| {
            let fragment = dataset.fragments().iter().find(|fragment| fragment.id == id)?;
            fragment.files.iter().find(|file| {
                let fields = file.fields.iter().filter_map(|field| u32::try_from(*field).ok());
                fields.into_iter().any(|field| ids.contains(&field))
            })
        })
    });
    Ok(Files { of_row: of_row.collect() })
}

/// Marks rows whose blobs are described alike and lie in another file: a descriptor counts from the file
/// that it is in, unless its bytes are kept apart from the table.
fn moved_blobs(old: &ArrayRef, new: &ArrayRef, files: (&Files, &Files), out: &mut [bool]) {
    let kinds = new
        .as_struct_opt()
        .and_then(|parts| parts.column_by_name("kind"))
        .and_then(|kinds| kinds.as_primitive_opt::<UInt8Type>());
    let sizes = new
        .as_struct_opt()
        .and_then(|parts| parts.column_by_name("size"))
        .and_then(|sizes| sizes.as_primitive_opt::<UInt64Type>());
    for (row, differs) in out.iter_mut().enumerate() {
        if old.is_null(row) && new.is_null(row) {
            *differs = false;
            continue;
        }
        let is_apart = kinds.is_some_and(|kinds| kinds.value(row) == BlobKind::External as u8);
        // No bytes lie nowhere.
        let is_empty = sizes.is_some_and(|sizes| sizes.value(row) == 0);
        let is_moved = match (files.0.of_row[row], files.1.of_row[row]) {
            (Some(old), Some(new)) => old.path != new.path || old.base_id != new.base_id,
            (None, None) => false,
            _ => true,
        };
        *differs |= is_moved && !is_apart && !is_empty;
    }
}
