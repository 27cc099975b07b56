//! A partial upsert of rows that are all there: only the cells that were sent are written.
//!
//! ```text
//!   sent keys ─► where their rows lie ─┬─► overlays (extended profile)
//!                                      └─► the columns of these fragments, with the cells in their places
//! ```
//!
//! Lance's own merge would write whole rows anew where no index on the key is there. What is not done here
//! is left to it: new keys, conditions, deletions, blobs, more rows than are held in memory, and in the
//! open profile keys with an index, where it patches columns, too, and finds few rows of many faster.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::prelude::Expr;
use futures::StreamExt as _;
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::transaction::{DataReplacementGroup, Operation};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;

use crate::column_patch::{Patched, RowPlaces, alone, ids_below, mask, place, with_file};
use crate::expressions::holds_blob;
use crate::keys::KeyGuard;
use crate::lake::Shared;
use crate::lance_error::{StreamError, from_lance};
use crate::overlay::{Cells, Overlaid, fragment_of, suits};
use crate::profile::Profile;
use crate::row_width::row_width;
use crate::scalar_index::has_btree;
use crate::scan::{BATCH_BYTES, Projection, ScanSpec, whole_fragments};
use crate::whole_merge::find;
use crate::write::discard;

/// Rows that are read and written at a time, where [`BATCH_BYTES`] are not fewer.
const ROWS_MAX: u64 = 8_192;
/// Sent keys that are looked up in an index; more are found by reading the column.
const LOOKUPS_MAX: usize = 2_000;

/// What is written of columns for few cells; beyond it, and beyond so many times what was sent, lance writes
/// the rows anew, which costs more of a table's layout and less of a column of wide values.
const PATCH_BYTES_MAX: u64 = 64 << 20;
const PATCH_TIMES_MAX: u64 = 8;

/// Cells that are written and not committed.
pub(crate) struct WrittenCells {
    pub(crate) operation: Operation,
    /// The new files alone, for the case that they are not committed.
    pub(crate) written: Vec<Fragment>,
}

/// For each fragment the positions in it, and which of the sent rows goes there.
type Places = BTreeMap<u32, BTreeMap<u32, u32>>;

/// Writes the cells of rows that were sent, on a version; nothing where lance's merge has to do it.
pub(crate) async fn write_cells(
    shared: &Shared,
    dataset: &Arc<Dataset>,
    on: &[String],
    schema: &SchemaRef,
    sent: &[RecordBatch],
) -> Result<Option<WrittenCells>> {
    let stored = dataset.schema();
    let is_cell = |name: &String| !on.contains(name) && schema.field_with_name(name).is_ok();
    let columns: Vec<&Field> = stored.fields.iter().filter(|it| is_cell(&it.name)).collect();
    let is_whole = stored.fields.iter().all(|field| schema.field_with_name(&field.name).is_ok());
    if is_whole || columns.is_empty() || columns.iter().any(|field| holds_blob(field)) {
        return Ok(None);
    }
    let mut is_indexed = true;
    for column in on {
        is_indexed &= has_btree(dataset, column).await?;
    }
    if is_indexed && Profile::of(dataset) == Profile::Open {
        return Ok(None);
    }
    let batch = concat_batches(schema, sent)
        .map_err(|error| Error::internal("join rows").with_source(error))?;
    let Some(cells) = cells_of(&batch, &columns) else { return Ok(None) };
    let mut keys = KeyGuard::new(on, schema, usize::MAX)?;
    keys.check(&batch, 0)?;
    let rows = batch.num_rows() as u64;
    let wanted = match is_indexed {
        true => lookup(&batch, on)?,
        false => None,
    };
    let Some(found) = find(dataset, &keys, rows, wanted).await? else { return Ok(None) };
    if found.found < rows {
        return Ok(None);
    }
    let mut places = Places::new();
    for (row, (_, address)) in (0_u32..).zip(&found.rows) {
        let (fragment, position) = ((address >> 32) as u32, *address as u32);
        places.entry(fragment).or_default().insert(position, row);
    }
    let touched: RowPlaces =
        places.iter().map(|(id, rows)| (*id, rows.keys().copied().collect())).collect();
    let ids: Vec<i32> = columns.iter().map(|field| field.id).collect();
    let target = stored.project_by_ids(&ids, true);
    let to = Target { dataset, cells: &cells, target: &target };
    let mut written = Vec::new();
    let outcome = if suits(dataset, columns.iter().copied(), &touched) {
        to.overlay(places, &mut written).await
    } else {
        let width = to.row_width(&touched).await?;
        if !to.is_cheap(&touched, width) {
            return Ok(None);
        }
        to.patch(places, touched, width, &mut written).await
    };
    match outcome {
        Ok(operation) => Ok(Some(WrittenCells { operation, written })),
        Err(error) => {
            discard(shared, &dataset.branch_location().path, &written).await?;
            Err(error)
        }
    }
}

/// Where cells go.
struct Target<'a> {
    dataset: &'a Arc<Dataset>,
    /// The sent columns, in the order of the table's.
    cells: &'a RecordBatch,
    target: &'a Schema,
}

impl Target<'_> {
    /// Bytes of a row of the columns, as these fragments have them.
    async fn row_width(&self, touched: &RowPlaces) -> Result<u64> {
        let names = self.target.fields.iter().map(|field| field.name.clone()).collect();
        let mut slices = whole_fragments(self.dataset);
        slices.retain(|slice| touched.contains_key(&slice.fragment));
        let projection = Projection::Names(names);
        let spec = ScanSpec { projection, slices: Some(slices), ..ScanSpec::default() };
        row_width(self.dataset, &spec).await
    }

    /// Whether the columns of these fragments are small enough to be written for the cells.
    fn is_cheap(&self, touched: &RowPlaces, width: u64) -> bool {
        let mut slices = whole_fragments(self.dataset);
        slices.retain(|slice| touched.contains_key(&slice.fragment));
        let rows: u64 = slices.iter().map(|slice| slice.rows).sum();
        let sent = self.cells.get_array_memory_size() as u64;
        rows.saturating_mul(width) <= PATCH_BYTES_MAX.max(sent.saturating_mul(PATCH_TIMES_MAX))
    }

    async fn overlay(&self, places: Places, written: &mut Vec<Fragment>) -> Result<Operation> {
        let mut overlaid = Overlaid::default();
        for (id, rows) in places {
            let positions: Vec<u32> = rows.keys().copied().collect();
            let values = self.values(rows.values())?;
            let mut cells = Cells::open(&fragment_of(self.dataset, id)?, self.target).await?;
            cells.write(&positions, values).await?;
            if let Some(group) = cells.finish().await? {
                overlaid.add(group);
                written.clone_from(&overlaid.written);
            }
        }
        Ok(overlaid.into_operation())
    }

    async fn patch(
        &self,
        places: Places,
        mut touched: RowPlaces,
        width: u64,
        written: &mut Vec<Fragment>,
    ) -> Result<Operation> {
        let step = (BATCH_BYTES / width.max(1)).clamp(1, ROWS_MAX) as u32;
        let mut patched = Patched {
            fields: self.target.fields.iter().flat_map(ids_below).collect(),
            ..Patched::default()
        };
        for (id, rows) in places {
            let fragment = fragment_of(self.dataset, id)?;
            let count = fragment.physical_rows().await.map_err(from_lance)? as u64;
            let old = fragment
                .read_physical_slice(0..count, self.target, step)
                .await
                .map_err(from_lance)?;
            let mut first = 0_u32;
            let changed = old.then(|batch| batch).map(|batch| {
                let changed = batch.map_err(from_lance).and_then(|batch| {
                    let end = first.saturating_add(batch.num_rows() as u32);
                    let placed = self.placed(&batch, first, &rows);
                    first = end;
                    placed
                });
                changed.map_err(|error| {
                    let error = StreamError::new(&error);
                    lance::Error::from(DataFusionError::External(Box::new(error)))
                })
            });
            let DataReplacementGroup(_, file) =
                Box::pin(fragment.write_columns(changed, self.target)).await.map_err(from_lance)?;
            written.push(alone(&fragment, &file));
            let now = with_file(fragment.metadata().clone(), file);
            let positions = touched.remove(&id).unwrap_or_default();
            patched.positions.insert(now.id, positions);
            patched.fragments.push(now);
        }
        Ok(patched.into_operation())
    }

    /// A batch of old values, whose first row is at position `first`, with the cells in their places.
    fn placed(
        &self,
        old: &RecordBatch,
        first: u32,
        rows: &BTreeMap<u32, u32>,
    ) -> Result<RecordBatch> {
        let end = first.saturating_add(old.num_rows() as u32);
        let here = || rows.range(first..end);
        let mask = mask(old.num_rows(), here().map(|(position, _)| position - first));
        let values = self.values(here().map(|(_, row)| row))?;
        let mut columns = Vec::new();
        for (field, new) in self.target.fields.iter().zip(values.columns()) {
            let column = old
                .column_by_name(&field.name)
                .ok_or_else(|| Error::internal(format!("column `{}` was not read", field.name)))?;
            columns.push(match new.is_empty() {
                true => Arc::clone(column),
                false => place(column, new, &mask, field)?,
            });
        }
        let fields: Vec<ArrowField> = self.target.fields.iter().map(ArrowField::from).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(old.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(ArrowSchema::new(fields)), columns, &options)
            .map_err(|error| Error::internal("cells in their places").with_source(error))
    }

    /// The cells of some of the sent rows.
    fn values<'a>(&self, rows: impl Iterator<Item = &'a u32>) -> Result<RecordBatch> {
        let order = UInt32Array::from_iter_values(rows.copied());
        take_record_batch(self.cells, &order)
            .map_err(|error| Error::internal("order rows").with_source(error))
    }
}

/// The sent columns in the order of the table's; nothing where one is sent otherwise than it is stored.
fn cells_of(batch: &RecordBatch, columns: &[&Field]) -> Option<RecordBatch> {
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for field in columns {
        let array = batch.column_by_name(&field.name)?;
        let stored = ArrowField::from(*field);
        let is_json = field.metadata.get("ARROW:extension:name");
        let is_json = is_json.is_some_and(|name| name.ends_with(".json"));
        if is_json
            || array.data_type() != stored.data_type()
            || (!field.nullable && array.null_count() > 0)
        {
            return None;
        }
        fields.push(stored);
        arrays.push(Arc::clone(array));
    }
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays).ok()
}

/// A condition that an index answers: that the key is one of those that were sent. Nothing for keys of
/// several columns, for other ones than numbers and texts, and for many.
fn lookup(batch: &RecordBatch, on: &[String]) -> Result<Option<Expr>> {
    let [key] = on else { return Ok(None) };
    let is_plain = |values: &&ArrayRef| {
        let kind = values.data_type();
        values.len() <= LOOKUPS_MAX && (kind.is_integer() || *kind == DataType::Utf8)
    };
    let Some(values) = batch.column_by_name(key).filter(is_plain) else { return Ok(None) };
    let values: std::result::Result<Vec<Expr>, DataFusionError> = (0..values.len())
        .map(|row| Ok(Expr::Literal(ScalarValue::try_from_array(values, row)?, None)))
        .collect();
    let values = values.map_err(|error| Error::internal("keys of a lookup").with_source(error))?;
    Ok(Some(Expr::Column(Column::from_name(key)).in_list(values, false)))
}
