//! A partial upsert of rows that are all there: the cells that were sent become overlays.
//!
//! What it does not do is left to lance's merge: new keys, conditions, deletions, and more rows than are held
//! in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{Schema as ArrowSchema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use lakebed_core::{Error, Result};
use lance::Dataset;

use super::{Cells, Overlaid, fragment_of, suits};
use crate::column_patch::RowPlaces;
use crate::keys::KeyGuard;
use crate::lake::Shared;
use crate::profile::Profile;
use crate::whole_merge::find;
use crate::write::discard;

/// Writes the overlays of rows that were sent, on a version; nothing where lance's merge has to do it.
pub(crate) async fn overlay_rows(
    shared: &Shared,
    dataset: &Arc<Dataset>,
    on: &[String],
    schema: &SchemaRef,
    sent: &[RecordBatch],
) -> Result<Option<Overlaid>> {
    if Profile::of(dataset) != Profile::Extended {
        return Ok(None);
    }
    let stored = dataset.schema();
    let is_cell = |name: &String| !on.contains(name) && schema.field_with_name(name).is_ok();
    let columns: Vec<_> = stored.fields.iter().filter(|field| is_cell(&field.name)).collect();
    let is_whole = stored.fields.iter().all(|field| schema.field_with_name(&field.name).is_ok());
    if is_whole || columns.is_empty() {
        return Ok(None);
    }
    let batch = concat_batches(schema, sent)
        .map_err(|error| Error::internal("join rows").with_source(error))?;
    let mut keys = KeyGuard::new(on, schema, usize::MAX)?;
    keys.check(&batch, 0)?;
    let rows = batch.num_rows() as u64;
    let Some(found) = find(dataset, &keys, rows).await? else { return Ok(None) };
    if found.found < rows {
        return Ok(None);
    }
    // For each fragment the positions in it, and which of the sent rows goes there.
    let mut by_fragment: BTreeMap<u32, BTreeMap<u32, u32>> = BTreeMap::new();
    for (row, (_, address)) in (0_u32..).zip(&found.rows) {
        let (fragment, position) = ((address >> 32) as u32, *address as u32);
        by_fragment.entry(fragment).or_default().insert(position, row);
    }
    let places: RowPlaces =
        by_fragment.iter().map(|(id, rows)| (*id, rows.keys().copied().collect())).collect();
    if !suits(dataset, columns.iter().copied(), &places) {
        return Ok(None);
    }
    let ids: Vec<i32> = columns.iter().map(|field| field.id).collect();
    let cells = cells_of(&batch, columns.iter().map(|field| field.name.as_str()))?;
    let target = stored.project_by_ids(&ids, true);
    let mut overlaid = Overlaid::default();
    for (id, rows) in by_fragment {
        let written = async {
            let positions: Vec<u32> = rows.keys().copied().collect();
            let order = UInt32Array::from_iter_values(rows.values().copied());
            let values = take_record_batch(&cells, &order)
                .map_err(|error| Error::internal("order rows").with_source(error))?;
            let mut overlay = Cells::open(&fragment_of(dataset, id)?, &target).await?;
            overlay.write(&positions, values).await?;
            overlay.finish().await
        };
        match written.await {
            Ok(group) => group.into_iter().for_each(|group| overlaid.add(group)),
            Err(error) => {
                let base = &dataset.branch_location().path;
                discard(shared, base, &overlaid.written).await?;
                return Err(error);
            }
        }
    }
    Ok(Some(overlaid))
}

/// The columns of those names.
fn cells_of<'a>(batch: &RecordBatch, names: impl Iterator<Item = &'a str>) -> Result<RecordBatch> {
    let schema = batch.schema();
    let mut at = Vec::new();
    for name in names {
        at.push(schema.index_of(name).map_err(|_| Error::internal("a sent column is missing"))?);
    }
    let fields: Vec<_> = at.iter().map(|at| Arc::clone(&schema.fields()[*at])).collect();
    let columns = at.iter().map(|at| Arc::clone(batch.column(*at))).collect();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns)
        .map_err(|error| Error::internal("cells").with_source(error))
}
