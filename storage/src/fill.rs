//! Fill: cells of columns get values that were computed elsewhere, while the table goes on changing.
//!
//! ```text
//!   values ─► columns of the fragment, row for row ─► new column file ─┊─► mutation lock ─► version
//!                         outside of the lock                          ┊      └─► changed meanwhile: moved
//! ```
//!
//! Who computes values reads the rows of a version and is back minutes later. By then rows may have been
//! appended, deleted, updated or rewritten. So each fragment brings the names of the files that its
//! values were computed from. Where the newest version has the same fragment with the same files, the
//! values are right, deleted rows or not; where it has not, nothing is written and the fragment is named
//! as moved, for its rows to be computed again.
//!
//! What always holds: cells outside the places that are filled keep their values; a fill with a write
//! id that was committed before does nothing; blobs are neither read nor written; memory is a few
//! batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use arrow_select::concat::concat_batches;
use datafusion::error::DataFusionError;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result, Subject};
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{DataReplacementGroup, Transaction};
use lance_core::datatypes::{Field, Schema};
use lance_core::{ROW_ADDR, ROW_ID};
use lance_table::format::overlay::DataOverlayFile;
use lance_table::format::{DataFile, Fragment};
use roaring::RoaringBitmap;

use crate::column_patch::{
    Patched, RowPlaces, alone, bad_filter, ids_below, mask_of, matching_rows, place, with_file,
};
use crate::commit::TRIES_MAX;
use crate::history::backfill_property;
use crate::lance_error::{StreamError, from_lance};
use crate::scan::{BATCH_BYTES, BatchStream, Projection, ScanSpec};
use crate::snapshot::{At, Snapshot};
use crate::sql_guard::check_sql;
use crate::table::{Branch, Table};
use crate::write::discard;
use crate::write_id::{Begun, Reservation, WriteRecord};

/// Rows that are read and written at a time.
const ROWS_MAX: u64 = 8_192;
/// What the write ids of fills are kept with.
pub(crate) const MODE: &str = "fill";

/// The values for some rows of one fragment.
pub struct FragmentValues {
    /// The fragment.
    pub fragment: u32,
    /// The files that held the source columns when the values were computed; see
    /// [`Snapshot::source_files`].
    pub source_files: Vec<String>,
    /// The physical positions of the rows.
    pub places: RoaringBitmap,
    /// Their values in the order of their positions: batches with the filled columns, by name.
    pub values: BatchStream,
    /// Tells this fill apart, so that it is done once.
    pub write_id: String,
}

/// What a fill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filled {
    /// The version that shows the values; none when nothing was committed now.
    pub version: Option<u64>,
    /// Fragments that have their values, now or from the same fill before.
    pub filled: Vec<u32>,
    /// Fragments that are gone or whose source changed: their rows have to be looked for again.
    pub moved: Vec<u32>,
}

impl Snapshot {
    /// Where the rows lie for which `filter` is true, which may name system columns; all rows without
    /// one. Only in `fragments`, where given.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse.
    pub fn row_places<'a>(
        &'a self,
        filter: Option<&'a str>,
        fragments: Option<&'a [u32]>,
    ) -> BoxFuture<'a, Result<RowPlaces>> {
        async move {
            if let Some(filter) = filter {
                check_sql(filter, &self.table().shared.limits)
                    .map_err(|error| error.context("filter"))?;
            }
            matching_rows(&self.dataset, filter, fragments).await
        }
        .boxed()
    }

    /// For each fragment the names of the files that hold any of some columns.
    ///
    /// # Errors
    /// `NotFound` when there is no such column.
    pub fn source_files(&self, columns: &[String]) -> Result<BTreeMap<u32, Vec<String>>> {
        let ids = ids_of(self.dataset.schema(), columns)?;
        let fragments = self.dataset.fragments().iter();
        Ok(fragments.map(|fragment| (fragment.id as u32, files_of(fragment, &ids))).collect())
    }

    /// For each fragment how many of its rows are deleted. What is deleted stays so: two versions of a
    /// fragment with the same number have the same rows.
    pub fn deletions(&self) -> BTreeMap<u32, u64> {
        let fragments = self.dataset.fragments().iter();
        let deleted = |fragment: &Fragment| {
            let file = fragment.deletion_file.as_ref();
            // A file that does not say how many it names counts as another number than any.
            file.map_or(0, |file| file.num_deleted_rows.map_or(u64::MAX, |rows| rows as u64))
        };
        fragments.map(|fragment| (fragment.id as u32, deleted(fragment))).collect()
    }

    /// The stable row ids at physical positions of a fragment, in their order. Deleted rows are absent.
    ///
    /// # Errors
    /// `NotFound` for a fragment that the version does not have.
    pub fn row_ids_at<'a>(
        &'a self,
        fragment: u32,
        places: &'a RoaringBitmap,
    ) -> BoxFuture<'a, Result<Vec<(u32, u64)>>> {
        async move {
            let found = self.dataset.get_fragment(fragment as usize).ok_or_else(|| {
                Error::not_found(format!("fragment {fragment} is not in the version"))
            })?;
            let mut scanner = self.dataset.scan();
            scanner.with_fragments(vec![found.metadata().clone()]).with_row_id();
            scanner.project(&[ROW_ADDR]).map_err(from_lance)?;
            let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(bad_filter)?;
            let mut ids = Vec::with_capacity(places.len() as usize);
            while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
                let (rows, addresses) = (numbers(&batch, ROW_ID)?, numbers(&batch, ROW_ADDR)?);
                for (row, address) in rows.iter().zip(addresses) {
                    let position = *address as u32;
                    if places.contains(position) {
                        ids.push((position, *row));
                    }
                }
            }
            ids.sort_unstable();
            Ok(ids)
        }
        .boxed()
    }
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [u64]> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
        .map(|column| column.values().as_ref())
        .ok_or_else(|| Error::internal(format!("a scan gave no `{name}`")))
}

impl Table {
    /// Gives cells of `columns` their values, for the fragments whose `sources` are still what the values
    /// were computed from. All columns of a fragment get theirs in one version.
    ///
    /// # Errors
    /// `NotFound` when one of the columns is gone, `Conflict` when other servers commit all the time,
    /// the error of a stream of values; nothing is committed then.
    pub fn fill_columns<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        columns: &'a [String],
        sources: &'a [String],
        fragments: Vec<FragmentValues>,
    ) -> BoxFuture<'a, Result<Filled>> {
        async move {
            let branch = self.branch(branch).await?;
            branch.check_no_view().await?;
            let _pin = branch.hold().await?;
            let snapshot = self.snapshot(branch.name.as_deref(), &At::Latest).await?;
            let mut fill = Fill::new(&snapshot, columns, sources).await?;
            let outcome = match fill.write_all(&branch, fragments).await {
                Ok(()) => fill.commit(&branch).await,
                Err(error) => Err(error),
            };
            // What was committed is not among them any more.
            let base = &snapshot.dataset.branch_location().path;
            let left: Vec<Fragment> = fill.pending.into_iter().map(|one| one.written).collect();
            discard(&self.shared, base, &left).await?;
            outcome
        }
        .boxed()
    }
}

/// A fill under way, planned on one version.
struct Fill {
    snapshot: Snapshot,
    /// The columns that are filled, in the order of the table.
    fields: Vec<Field>,
    source_ids: Vec<u32>,
    sources: Vec<String>,
    schema: SchemaRef,
    batch_rows: u32,
    pending: Vec<Pending>,
    filled: Filled,
}

/// A fragment whose column file is written and not committed.
struct Pending {
    id: u32,
    /// Its files when the column was written: any other, and the column may be another.
    files: Vec<DataFile>,
    /// The same of what lies over the column.
    overlays: Vec<DataOverlayFile>,
    file: DataFile,
    written: Fragment,
    places: RoaringBitmap,
    write: (String, WriteRecord),
    _reservation: Reservation,
}

impl Fill {
    async fn new(snapshot: &Snapshot, columns: &[String], sources: &[String]) -> Result<Fill> {
        let schema = snapshot.dataset.schema();
        for column in columns {
            field_of(schema, column)?;
        }
        let fields = schema.fields.iter().filter(|field| columns.contains(&field.name));
        let fields: Vec<Field> = fields.cloned().collect();
        let source_ids = ids_of(schema, sources)?;
        let projection = Projection::Names(columns.to_vec());
        let spec = ScanSpec { projection, ..ScanSpec::default() };
        let batch_rows = snapshot.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
        Ok(Fill {
            snapshot: snapshot.clone(),
            schema: Arc::new(ArrowSchema::new(
                fields.iter().map(ArrowField::from).collect::<Vec<_>>(),
            )),
            fields,
            source_ids,
            sources: sources.to_vec(),
            batch_rows: u32::try_from(batch_rows).unwrap_or(1),
            pending: Vec::new(),
            filled: Filled::default(),
        })
    }

    async fn write_all(&mut self, branch: &Branch, fragments: Vec<FragmentValues>) -> Result<()> {
        let ids = branch.write_ids().await?;
        let now_ms = branch.shared.clock.now_ms();
        ids.catch_up(&self.snapshot.dataset, now_ms).await?;
        for values in fragments {
            let begun = ids.begin_in_turn(&values.write_id, MODE, "", now_ms).await?;
            let reservation = match begun {
                Begun::Known(_) => {
                    self.filled.filled.push(values.fragment);
                    continue;
                }
                Begun::Fresh(reservation) => reservation,
            };
            let dataset = &self.snapshot.dataset;
            let fragment = dataset.get_fragment(values.fragment as usize).filter(|fragment| {
                files_of(fragment.metadata(), &self.source_ids) == values.source_files
            });
            let Some(fragment) = fragment else {
                self.filled.moved.push(values.fragment);
                continue;
            };
            let rows = values.places.len();
            let file = self.write(&fragment, &values.places, values.values).await?;
            let record = WriteRecord {
                mode: MODE.to_owned(),
                schema: String::new(),
                rows,
                bytes: file.file_size_bytes.get().map_or(0, u64::from),
                at_ms: now_ms,
            };
            self.pending.push(Pending {
                id: values.fragment,
                files: fragment.metadata().files.clone(),
                overlays: overlays_of(fragment.metadata(), &self.filled_ids()),
                written: alone(&fragment, &file),
                file,
                places: values.places,
                write: (values.write_id, record),
                _reservation: reservation,
            });
        }
        Ok(())
    }

    /// The fields that are filled, with everything below them.
    fn filled_ids(&self) -> Vec<u32> {
        self.fields.iter().flat_map(ids_below).collect()
    }

    /// Writes the columns of a fragment: old values, and the new ones at their places.
    async fn write(
        &self,
        fragment: &FileFragment,
        places: &RoaringBitmap,
        values: BatchStream,
    ) -> Result<DataFile> {
        let rows = fragment.physical_rows().await.map_err(from_lance)? as u64;
        let ids: Vec<i32> = self.fields.iter().map(|field| field.id).collect();
        let target = self.snapshot.dataset.schema().project_by_ids(&ids, true);
        let old = fragment
            .read_physical_slice(0..rows, &target, self.batch_rows)
            .await
            .map_err(from_lance)?;
        let filled = self.filled_rows(old.then(|batch| batch).boxed(), places, values);
        let DataReplacementGroup(_, file) =
            Box::pin(fragment.write_columns(filled, &target)).await.map_err(from_lance)?;
        Ok(file)
    }

    fn filled_rows<'a>(
        &'a self,
        old: futures::stream::BoxStream<'a, lance::Result<RecordBatch>>,
        places: &'a RoaringBitmap,
        values: BatchStream,
    ) -> impl Stream<Item = lance::Result<RecordBatch>> + Send + 'a {
        let values = Values { batches: values, current: None };
        let state = (old, values, 0_u64);
        futures::stream::try_unfold(state, move |(mut old, mut values, first)| async move {
            let Some(batch) = old.try_next().await? else { return Ok(None) };
            let next = first + batch.num_rows() as u64;
            let filled = self.fill_batch(&batch, first, places, &mut values).await;
            let filled = filled.map_err(|error| {
                lance::Error::from(DataFusionError::External(Box::new(StreamError::new(&error))))
            })?;
            Ok(Some((filled, (old, values, next))))
        })
    }

    async fn fill_batch(
        &self,
        batch: &RecordBatch,
        first: u64,
        places: &RoaringBitmap,
        values: &mut Values,
    ) -> Result<RecordBatch> {
        let mask = mask_of(places, first, batch.num_rows());
        let wanted = mask.true_count();
        let new = match wanted {
            0 => None,
            _ => Some(values.next(wanted).await?),
        };
        let mut columns = Vec::with_capacity(self.fields.len());
        for (field, old) in self.fields.iter().zip(batch.columns()) {
            columns.push(match &new {
                None => Arc::clone(old),
                Some(new) => place(old, column_of(new, field, old.data_type())?, &mask, field)?,
            });
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| Error::internal("values of columns").with_source(error))
    }

    /// Whether the columns are still those that were filled and read.
    fn check_columns(&self, schema: &Schema) -> Result<()> {
        let mut is_same = ids_of(schema, &self.sources)? == self.source_ids;
        for field in &self.fields {
            is_same &= field_of(schema, &field.name)?.id == field.id;
        }
        match is_same {
            true => Ok(()),
            false => Err(Error::not_found(format!(
                "a column of {} was replaced by another one of its name",
                self.sources
                    .iter()
                    .chain(self.fields.iter().map(|field| &field.name))
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
            .about(Subject::Column)),
        }
    }

    /// Commits what is still as it was when its column was written.
    async fn commit(&mut self, branch: &Arc<Branch>) -> Result<Filled> {
        let _mutation = branch.mutation.lock().await;
        let mut turn = None;
        for tries in 1.. {
            let latest = branch.latest().await?;
            self.check_columns(latest.schema())?;
            let mut patched = Patched { fields: self.filled_ids(), ..Patched::default() };
            let (mut writes, mut same) = (Vec::new(), Vec::new());
            for one in &self.pending {
                let fragment = latest.get_fragment(one.id as usize);
                let is_as_it_was = |it: &FileFragment| {
                    it.metadata().files == one.files
                        && overlays_of(it.metadata(), &patched.fields) == one.overlays
                };
                let Some(fragment) = fragment.filter(is_as_it_was) else {
                    continue;
                };
                let fragment = with_file(fragment.metadata().clone(), one.file.clone());
                patched.add(fragment, one.written.clone(), one.places.clone());
                writes.push(one.write.clone());
                same.push(one.id);
            }
            if !same.is_empty() {
                let operation = patched.into_operation();
                let mut transaction = Transaction::new(latest.version().version, operation, None);
                let names: Vec<String> =
                    self.fields.iter().map(|field| field.name.clone()).collect();
                let property = backfill_property(&names);
                transaction.transaction_properties = Some(Arc::new(property));
                match branch.commit_on_newest(transaction, writes, None, turn.take()).await {
                    Ok(committed) => {
                        self.filled.version = Some(committed.version().version);
                        self.pending.retain(|one| !same.contains(&one.id));
                    }
                    Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES_MAX => {
                        // Appends wait this time, or a table that is always appended to is never filled.
                        turn = Some(branch.turn().await);
                        continue;
                    }
                    // Its files may be in a version: they must stay.
                    Err(error) if error.kind() == ErrorKind::CommitUnknown => {
                        self.pending.clear();
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.filled.filled.append(&mut same);
            self.filled.moved.extend(self.pending.iter().map(|one| one.id));
            break;
        }
        Ok(std::mem::take(&mut self.filled))
    }
}

/// The values of a column, which have to be of its type.
fn column_of<'a>(
    values: &'a RecordBatch,
    field: &Field,
    wanted: &DataType,
) -> Result<&'a ArrayRef> {
    let column = values.column_by_name(&field.name).ok_or_else(|| {
        Error::internal(format!("there are no values for column `{}`", field.name))
    })?;
    match column.data_type() == wanted {
        true => Ok(column),
        false => Err(Error::internal(format!(
            "column `{}` of type {wanted} gets values of type {}",
            field.name,
            column.data_type()
        ))),
    }
}

/// The new values, cut as they are needed.
struct Values {
    batches: BatchStream,
    current: Option<RecordBatch>,
}

impl Values {
    async fn next(&mut self, rows: usize) -> Result<RecordBatch> {
        let mut parts: Vec<RecordBatch> = Vec::new();
        let mut missing = rows;
        while missing > 0 {
            let Some(current) = self.current.take().filter(|it| it.num_rows() > 0) else {
                let batch = self.batches.try_next().await?;
                let batch =
                    batch.ok_or_else(|| Error::internal("there are fewer values than rows"))?;
                self.current = Some(batch);
                continue;
            };
            let taken = missing.min(current.num_rows());
            parts.push(current.slice(0, taken));
            self.current = Some(current.slice(taken, current.num_rows() - taken));
            missing -= taken;
        }
        match parts.as_slice() {
            [whole] => Ok(whole.clone()),
            [first, ..] => concat_batches(&first.schema(), &parts)
                .map_err(|error| Error::internal("join values").with_source(error)),
            [] => Err(Error::internal("no values were asked for")),
        }
    }
}

/// The ids of columns and of everything below them.
fn ids_of(schema: &Schema, columns: &[String]) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for column in columns {
        ids.extend(ids_below(field_of(schema, column)?));
    }
    Ok(ids)
}

fn field_of<'a>(schema: &'a Schema, column: &str) -> Result<&'a Field> {
    schema.fields.iter().find(|field| field.name == column).ok_or_else(|| {
        Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
    })
}

/// The overlays of a fragment that have values of such fields.
fn overlays_of(fragment: &Fragment, ids: &[u32]) -> Vec<DataOverlayFile> {
    let is_of_them = |overlay: &&DataOverlayFile| {
        let mut fields = overlay.data_file.fields.iter();
        fields.any(|field| u32::try_from(*field).is_ok_and(|field| ids.contains(&field)))
    };
    fragment.overlays.iter().filter(is_of_them).cloned().collect()
}

fn files_of(fragment: &Fragment, ids: &[u32]) -> Vec<String> {
    let holds = |file: &&DataFile| {
        file.fields
            .iter()
            .any(|field| u32::try_from(*field).is_ok_and(|field| ids.contains(&field)))
    };
    let overlays = fragment.overlays.iter().map(|overlay| &overlay.data_file);
    fragment.files.iter().chain(overlays).filter(holds).map(|file| file.path.clone()).collect()
}
