//! What a merge writes: the changes of a branch, on the newest version of its parent.
//!
//! ```text
//!   changed cells ─► per fragment of the parent: the columns named, row for row ─► new column file
//!   rows with a changed blob ─► whole, under their row ids ─────────────────────► new fragment
//!   new rows ─► whole, under new row ids ───────────────────────────────────────► new fragment
//!   deleted rows, and where rows with changed blobs lay ────────────────────────► deletion files
//! ```
//!
//! All of it is one transaction. A blob of a row that is not written whole is neither read nor written;
//! large blobs are referred to, never copied. Memory is one batch of rows, and 12 bytes for each changed
//! row of one fragment.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{LargeBinaryBuilder, StringBuilder};
use arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, StructArray, UInt64Array, new_null_array,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use arrow_select::interleave::interleave;
use datafusion::error::DataFusionError;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{DataReplacementGroup, Operation};
use lance::dataset::{InsertBuilder, WriteMode};
use lance_core::datatypes::{BLOB_V2_LOGICAL_FIELDS, Field, Schema};
use lance_table::format::Fragment;
use roaring::RoaringTreemap;

use super::divergence::{Divergence, field};
use super::side::{Side, chunks};
use crate::blob::{BLOB_IN_TABLE_BYTES_MAX, blob_path, external_uri, large_blob};
use crate::blob_claims::WriteClaims;
use crate::column_patch::{Patched, alone, ids_below, with_file};
use crate::diff::{as_type, each_row, named, take};
use crate::expressions::holds_blob;
use crate::keys::KeyGuard;
use crate::lake::Shared;
use crate::lance_error::{StreamError, from_lance};
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::schema::written_field;
use crate::snapshot::Snapshot;
use crate::whole_merge::keep_row_ids;
use crate::write::{as_source, discard, write_error, write_params_into};

/// Rows that are read and written at a time.
const ROWS_MAX: u64 = 4_096;
/// The same where blobs are read, each of which is held whole and may have 16 MiB.
const BLOB_ROWS: usize = 8;

/// New rows of a branch whose key its parent has, and the rows of the parent.
///
/// # Errors
/// `InvalidArgument` for what cannot be a key, and where the branch brought one twice or without a value.
pub(super) async fn same_keys(
    parent: &Snapshot,
    branch: &Side,
    keys: &[String],
) -> Result<BTreeMap<u64, u64>> {
    let on_branch = ArrowSchema::from(branch.tip.dataset.schema());
    let on_branch = on_branch
        .project(
            &keys
                .iter()
                .map(|key| on_branch.index_of(key))
                .collect::<std::result::Result<Vec<usize>, _>>()
                .map_err(|error| Error::invalid(format!("the key columns: {error}")))?,
        )
        .map_err(|error| Error::internal("key columns").with_source(error))?;
    let rows_max = parent.table().shared.limits.upsert_rows_max;
    let mut guard = KeyGuard::new(keys, &on_branch, rows_max)?;
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut rows: Vec<u64> = Vec::new();
    let mut new = std::pin::pin!(chunks(branch.inserted.clone(), ROWS_MAX as usize));
    while let Some(chunk) = new.try_next().await? {
        let batch = take(&branch.tip.dataset, &names, &chunk).await?;
        let places: Vec<usize> =
            keys.iter().filter_map(|key| batch.schema().index_of(key).ok()).collect();
        let batch = batch
            .project(&places)
            .map_err(|error| Error::internal("key columns").with_source(error))?;
        guard.check(&batch, rows.len() as u64).map_err(|error| error.context("the branch"))?;
        rows.extend(chunk);
    }
    let mut scanner = parent.dataset.scan();
    scanner.project(keys).map_err(from_lance)?;
    scanner.with_row_id();
    let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
    let mut found = BTreeMap::new();
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        let ids = crate::diff::numbers(&batch, lance_core::ROW_ID)?;
        for (at, sent) in guard.find(&batch)?.into_iter().enumerate() {
            if let Some(row) = sent.and_then(|sent| rows.get(sent as usize)) {
                found.insert(*row, ids[at]);
            }
        }
    }
    Ok(found)
}

/// What of a branch goes into its parent, contradictions settled.
pub(super) struct Patch<'a> {
    pub(super) apart: &'a Divergence,
    /// Rows of the parent by column that they take from the branch, by the name at the beginning.
    pub(super) cells: BTreeMap<String, RoaringTreemap>,
    /// Rows of the parent.
    pub(super) deleted: RoaringTreemap,
    /// Rows of the branch.
    pub(super) inserted: RoaringTreemap,
}

/// A column as it goes into the parent.
struct Taken<'a> {
    ours: &'a Field,
    theirs: &'a str,
    rows: &'a RoaringTreemap,
}

impl Patch<'_> {
    fn shared(&self) -> &Arc<Shared> {
        &self.apart.ours.tip.table().shared
    }

    /// Writes the files; the operation that makes them visible, and what to delete where it is not done.
    pub(super) async fn build(
        &self,
        claims: &Arc<WriteClaims>,
    ) -> Result<(Operation, Vec<Fragment>)> {
        self.check()?;
        let mut written = Vec::new();
        let outcome = self.write(claims, &mut written).await;
        if outcome.is_err() {
            let base = &self.apart.ours.tip.dataset.branch_location().path;
            discard(self.shared(), base, &written).await?;
        }
        outcome.map(|operation| (operation, written))
    }

    /// Refuses what cannot be written.
    fn check(&self) -> Result<()> {
        let is_json = |field: &Field| {
            field.metadata.get("ARROW:extension:name").is_some_and(|name| name.ends_with(".json"))
        };
        let (ours, theirs) = (&self.apart.ours.tip, &self.apart.theirs);
        for of_table in &ours.dataset.schema().fields {
            let is_written = !self.inserted.is_empty() || self.cells.contains_key(&of_table.name);
            if is_json(of_table) && is_written {
                return Err(Error::new(
                    ErrorKind::NotImplemented,
                    format!(
                        "a merge into column `{}`, which holds JSON, is not built",
                        of_table.name
                    ),
                ));
            }
            let is_there = self.their_name(&of_table.name).is_some();
            if !self.inserted.is_empty() && !is_there && !of_table.nullable {
                return Err(Error::invalid(format!(
                    "new rows of the branch would lack column `{}`, which does not allow null",
                    of_table.name
                )));
            }
        }
        if theirs.tip.dataset.schema().fields.is_empty() {
            return Err(Error::internal("the branch has no column"));
        }
        Ok(())
    }

    async fn write(
        &self,
        claims: &Arc<WriteClaims>,
        written: &mut Vec<Fragment>,
    ) -> Result<Operation> {
        let ours = &self.apart.ours.tip;
        let (mut cells, mut whole) = (Vec::new(), RoaringTreemap::new());
        for (name, rows) in &self.cells {
            let our_name = self.apart.name_on_parent(name);
            let their_name = self.apart.theirs.name_at_tip(name);
            let (Some(ours), Some(theirs)) = (field(ours, our_name), their_name) else {
                return Err(Error::internal(format!("column `{name}` is not on both sides")));
            };
            match holds_blob(ours) {
                true => whole |= rows,
                false => cells.push(Taken { ours, theirs, rows }),
            }
        }
        let touched = cells.iter().fold(RoaringTreemap::new(), |all, it| all | it.rows) - &whole;
        let removed = &self.deleted | &whole;
        let mut patched = Patched {
            fields: cells.iter().flat_map(|it| ids_below(it.ours)).collect(),
            ..Patched::default()
        };
        let mut gone = Vec::new();
        for fragment in ours.dataset.get_fragments() {
            let places = Places::of(ours, &fragment, &touched, &removed).await?;
            if places.is_empty() {
                continue;
            }
            let without = match places.removed.is_empty() {
                true => Some(fragment.clone()),
                false => {
                    let removed = places.removed.iter().copied();
                    fragment.clone().extend_deletions(removed).await.map_err(from_lance)?
                }
            };
            let Some(without) = without else {
                gone.push(fragment.id() as u64);
                continue;
            };
            let mut now = without.metadata().clone();
            // The commit takes these columns' overlays from every fragment that it names.
            let is_overlaid = now.overlays.iter().any(|overlay| {
                let mut fields = overlay.data_file.fields.iter();
                fields.any(|id| u32::try_from(*id).is_ok_and(|id| patched.fields.contains(&id)))
            });
            if !places.touched.is_empty() || (!touched.is_empty() && is_overlaid) {
                let file = self.patch_fragment(&fragment, &cells, &places).await?;
                written.push(alone(&fragment, &file));
                now = with_file(now, file);
            }
            if !places.touched.is_empty() {
                let positions = places.touched.iter().map(|(position, _)| *position).collect();
                patched.positions.insert(now.id, positions);
            }
            patched.fragments.push(now);
        }
        if patched.positions.is_empty() {
            // No column was written, so no index has anything to forget.
            patched.fields.clear();
        }
        let moved = self.write_rows(&whole, true, claims, written).await?;
        let new = self.write_rows(&self.inserted, false, claims, written).await?;
        let mut operation = patched.into_operation();
        if let Operation::Update { removed_fragment_ids, new_fragments, .. } = &mut operation {
            *removed_fragment_ids = gone;
            new_fragments.extend(moved);
            new_fragments.extend(new);
        }
        Ok(operation)
    }

    /// The columns of one fragment with the cells that come from the branch.
    async fn patch_fragment(
        &self,
        fragment: &FileFragment,
        cells: &[Taken<'_>],
        places: &Places,
    ) -> Result<lance_table::format::DataFile> {
        let ours = &self.apart.ours.tip;
        let ids: Vec<i32> = cells.iter().map(|it| it.ours.id).collect();
        let target: Schema = ours.dataset.schema().project_by_ids(&ids, true);
        // In the order of the schema, as they are read and written.
        let fields: Vec<ArrowField> = target.fields.iter().map(ArrowField::from).collect();
        let schema = Arc::new(ArrowSchema::new(fields));
        let names = cells.iter().map(|it| it.ours.name.clone()).collect();
        let spec = ScanSpec { projection: Projection::Names(names), ..ScanSpec::default() };
        let step = ours.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
        let rows = fragment.physical_rows().await.map_err(from_lance)? as u64;
        let step = u32::try_from(step).unwrap_or(1);
        let batches =
            fragment.read_physical_slice(0..rows, &target, step).await.map_err(from_lance)?;
        let mut first = 0_u64;
        let source = batches.then(|batch| batch).map(|batch| {
            let batch = batch.map_err(from_lance)?;
            let start = first;
            first += batch.num_rows() as u64;
            Ok((batch, start))
        });
        let source = source.and_then(|(batch, start)| {
            let schema = Arc::clone(&schema);
            async move { self.mixed(&batch, start, cells, places, schema).await }
        });
        let source = source.map_err(|error: Error| {
            lance::Error::from(DataFusionError::External(Box::new(StreamError::new(&error))))
        });
        let DataReplacementGroup(_, file) =
            Box::pin(fragment.write_columns(source, &target)).await.map_err(from_lance)?;
        Ok(file)
    }

    /// A batch of the parent, whose first row is at position `start`, with the cells of the branch.
    async fn mixed(
        &self,
        batch: &RecordBatch,
        start: u64,
        cells: &[Taken<'_>],
        places: &Places,
        schema: SchemaRef,
    ) -> Result<RecordBatch> {
        let end = start + batch.num_rows() as u64;
        let begin_at = places.touched.partition_point(|(at, _)| u64::from(*at) < start);
        let end_at = places.touched.partition_point(|(at, _)| u64::from(*at) < end);
        let here = &places.touched[begin_at..end_at];
        let rows: Vec<u64> = here.iter().map(|(_, row)| *row).collect();
        let theirs = match rows.is_empty() {
            true => None,
            false => {
                let names: Vec<&str> = cells.iter().map(|it| it.theirs).collect();
                Some(take(&self.apart.theirs.tip.dataset, &names, &rows).await?)
            }
        };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let old = named(batch, field.name())?;
            let cell = cells.iter().find(|it| it.ours.name == *field.name());
            let (Some(theirs), Some(cell)) = (&theirs, cell) else {
                columns.push(Arc::clone(old));
                continue;
            };
            let mut from: Vec<(usize, usize)> = (0..old.len()).map(|row| (0, row)).collect();
            for (at, (position, row)) in here.iter().enumerate() {
                if cell.rows.contains(*row) {
                    from[(u64::from(*position) - start) as usize] = (1, at);
                }
            }
            columns.push(joined(old, named(theirs, cell.theirs)?, &from, field.name())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|error| Error::invalid(format!("the branch's values do not fit: {error}")))
    }

    /// Writes whole rows: those of the parent with the cells of the branch, under their ids, or new ones.
    async fn write_rows(
        &self,
        rows: &RoaringTreemap,
        are_stored: bool,
        claims: &Arc<WriteClaims>,
        written: &mut Vec<Fragment>,
    ) -> Result<Vec<Fragment>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ours = &self.apart.ours.tip;
        let stored = ArrowSchema::from(ours.dataset.schema());
        let fields = stored.fields().iter().map(written_field);
        let metadata = stored.metadata().clone();
        let schema = Arc::new(ArrowSchema::new_with_metadata(fields.collect::<Vec<_>>(), metadata));
        let step = match ours.has_blobs() {
            true => BLOB_ROWS,
            false => {
                let rows = ours.rows_of(&ScanSpec::default(), BATCH_BYTES, ROWS_MAX).await?;
                usize::try_from(rows).unwrap_or(1)
            }
        };
        let reader = RowReader {
            ours: self.apart.ours.tip.clone(),
            theirs: self.apart.theirs.tip.clone(),
            columns: self.columns(),
            schema: Arc::clone(&schema),
            are_stored,
            claims: Arc::clone(claims),
        };
        let reader = Arc::new(reader);
        let batches = chunks(rows.clone(), step)
            .and_then(move |chunk| {
                let reader = Arc::clone(&reader);
                async move { reader.read(&chunk).await }
            })
            .map_err(|error| DataFusionError::External(Box::new(StreamError::new(&error))));
        let shared = self.shared();
        let params = write_params_into(shared, &ours.dataset, WriteMode::Append, false);
        let insert =
            InsertBuilder::new(shared.root.writable(&ours.dataset).await?).with_params(&params);
        let source = as_source(schema, batches.boxed());
        let transaction =
            Box::pin(insert.execute_uncommitted_stream(source)).await.map_err(write_error)?;
        let Operation::Append { mut fragments } = transaction.operation else {
            return Err(Error::internal("lance wrote something else than an append"));
        };
        written.extend(fragments.iter().cloned());
        if are_stored {
            keep_row_ids(&mut fragments, rows.iter())?;
        }
        Ok(fragments)
    }

    /// The name on the branch of a column of the parent, where it has it.
    fn their_name(&self, our_name: &str) -> Option<String> {
        let fields = self.apart.theirs.base.dataset.schema().fields.iter();
        let was = fields.map(|field| field.name.as_str());
        let new = self.apart.theirs.tip.dataset.schema().fields.iter();
        let names = was.chain(new.map(|field| field.name.as_str()));
        let mut same = names.filter(|name| self.apart.name_on_parent(name) == Some(our_name));
        same.find_map(|name| self.apart.theirs.name_at_tip(name).map(str::to_owned))
    }

    /// The columns of the parent, as whole rows take them.
    fn columns(&self) -> Vec<WholeColumn> {
        let fields = &self.apart.ours.tip.dataset.schema().fields;
        let of = |field: &Field| {
            let taken = self
                .cells
                .iter()
                .find(|(name, _)| self.apart.name_on_parent(name) == Some(field.name.as_str()));
            WholeColumn {
                ours: field.name.clone(),
                theirs: self.their_name(&field.name),
                is_blob: holds_blob(field),
                rows: taken.map(|(_, rows)| rows.clone()).unwrap_or_default(),
            }
        };
        fields.iter().map(of).collect()
    }
}

/// Where the rows of one fragment lie that a merge changes.
struct Places {
    /// Positions and row ids, ascending.
    touched: Vec<(u32, u64)>,
    /// Positions.
    removed: Vec<u32>,
}

impl Places {
    async fn of(
        ours: &Snapshot,
        fragment: &FileFragment,
        touched: &RoaringTreemap,
        removed: &RoaringTreemap,
    ) -> Result<Places> {
        let mut places = Places { touched: Vec::new(), removed: Vec::new() };
        if touched.is_empty() && removed.is_empty() {
            return Ok(places);
        }
        each_row(&ours.dataset, vec![fragment.metadata().clone()], |address, row, _| {
            let position = address as u32;
            if removed.contains(row) {
                places.removed.push(position);
            } else if touched.contains(row) {
                places.touched.push((position, row));
            }
        })
        .await?;
        places.touched.sort_unstable();
        Ok(places)
    }

    fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.removed.is_empty()
    }
}

/// A column of whole rows.
struct WholeColumn {
    ours: String,
    theirs: Option<String>,
    is_blob: bool,
    /// The stored rows that take it from the branch.
    rows: RoaringTreemap,
}

/// Reads whole rows as they go into the parent.
struct RowReader {
    ours: Snapshot,
    theirs: Snapshot,
    columns: Vec<WholeColumn>,
    schema: SchemaRef,
    are_stored: bool,
    claims: Arc<WriteClaims>,
}

impl RowReader {
    async fn read(&self, rows: &[u64]) -> Result<RecordBatch> {
        let plain = || self.columns.iter().filter(|column| !column.is_blob);
        let names: Vec<&str> = plain().filter_map(|column| column.theirs.as_deref()).collect();
        // A stored row may be without some columns on the branch, never without its row.
        let theirs = take(&self.theirs.dataset, &names, rows).await?;
        let ours = match self.are_stored {
            true => {
                let names: Vec<&str> = plain().map(|column| column.ours.as_str()).collect();
                Some(take(&self.ours.dataset, &names, rows).await?)
            }
            false => None,
        };
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter().zip(self.schema.fields()) {
            let is_theirs = |row: &u64| !self.are_stored || column.rows.contains(*row);
            let from_branch: Vec<u64> = rows.iter().copied().filter(is_theirs).collect();
            let array = match (&column.theirs, column.is_blob, &ours) {
                (None, _, None) => new_null_array(field.data_type(), rows.len()),
                (Some(name), true, None) => self.blobs(&self.theirs, name, rows).await?,
                (Some(name), false, None) => fitted(named(&theirs, name)?, field)?,
                (_, true, Some(_)) => {
                    let from_parent: Vec<u64> =
                        rows.iter().copied().filter(|row| !is_theirs(row)).collect();
                    let old = self.blobs(&self.ours, &column.ours, &from_parent).await?;
                    let name = column.theirs.as_deref().unwrap_or(&column.ours);
                    let new = self.blobs(&self.theirs, name, &from_branch).await?;
                    let (mut olds, mut news) = (0.., 0..);
                    let from = rows.iter().map(|row| match is_theirs(row) {
                        true => (1, news.next().unwrap_or(0)),
                        false => (0, olds.next().unwrap_or(0)),
                    });
                    joined(&old, &new, &from.collect::<Vec<_>>(), field.name())?
                }
                (name, false, Some(ours)) => {
                    let old = named(ours, &column.ours)?;
                    let Some(name) = name.as_ref().filter(|_| !from_branch.is_empty()) else {
                        arrays.push(fitted(old, field)?);
                        continue;
                    };
                    let from = rows.iter().enumerate();
                    let from = from.map(|(at, row)| (usize::from(is_theirs(row)), at));
                    let from: Vec<_> = from.collect();
                    joined(&fitted(old, field)?, named(&theirs, name)?, &from, field.name())?
                }
            };
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Error::invalid(format!("the branch's rows do not fit: {error}")))
    }

    /// The blobs of rows as they are written: small ones by their bytes, large ones by reference.
    async fn blobs(&self, snapshot: &Snapshot, column: &str, rows: &[u64]) -> Result<ArrayRef> {
        let mut data = LargeBinaryBuilder::new();
        let mut uris = StringBuilder::new();
        let mut sizes: Vec<Option<u64>> = Vec::with_capacity(rows.len());
        let mut valid: Vec<bool> = Vec::with_capacity(rows.len());
        let files = match rows.is_empty() {
            true => Vec::new(),
            false => {
                let taken = Box::pin(snapshot.dataset.take_blobs(rows, column)).await;
                taken.map_err(from_lance)?
            }
        };
        if files.len() != rows.len() {
            return Err(Error::internal("blobs of a version were not found by their rows"));
        }
        for file in files {
            valid.push(file.is_some());
            let large = file.as_ref().and_then(large_blob);
            match (file, large) {
                (Some(file), Some(digest)) => {
                    self.claims.claim(digest).await?;
                    data.append_null();
                    let shared = &snapshot.table().shared;
                    uris.append_value(external_uri(shared, &blob_path(&digest.hex()))?);
                    sizes.push(Some(file.size()));
                }
                (Some(file), None) => {
                    if file.size() > BLOB_IN_TABLE_BYTES_MAX {
                        return Err(Error::new(
                            ErrorKind::NotImplemented,
                            format!("a blob of column `{column}` lies outside the lake"),
                        ));
                    }
                    data.append_value(file.read_range(0..file.size()).await.map_err(from_lance)?);
                    uris.append_null();
                    sizes.push(None);
                }
                (None, _) => {
                    data.append_null();
                    uris.append_null();
                    sizes.push(None);
                }
            }
        }
        // Lance writes the size into the descriptor only when it is given with a range.
        let positions: UInt64Array = sizes.iter().map(|size| size.map(|_| 0)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(data.finish()),
            Arc::new(uris.finish()),
            Arc::new(positions),
            Arc::new(UInt64Array::from(sizes)),
        ];
        let nulls = NullBuffer::from(valid);
        Ok(Arc::new(StructArray::new(BLOB_V2_LOGICAL_FIELDS.clone(), columns, Some(nulls))))
    }
}

/// Values in the type of a column.
fn fitted(values: &ArrayRef, field: &ArrowField) -> Result<ArrayRef> {
    let like = arrow_array::new_empty_array(field.data_type());
    as_type(values, &like).ok_or_else(|| {
        Error::invalid(format!("values of column `{}` do not fit the parent's type", field.name()))
    })
}

/// Values of two arrays, each by array and place.
fn joined(old: &ArrayRef, new: &ArrayRef, from: &[(usize, usize)], name: &str) -> Result<ArrayRef> {
    let new = as_type(new, old).ok_or_else(|| {
        Error::invalid(format!("values of column `{name}` do not fit the parent's type"))
    })?;
    interleave(&[old.as_ref(), new.as_ref()], from)
        .map_err(|error| Error::internal(format!("join column `{name}`")).with_source(error))
}
