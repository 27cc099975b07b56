//! Update: new values for some columns of the rows that a predicate selects.
//!
//! ```text
//!   predicate ─► addresses of the rows ─► per fragment: columns named, row for row ─► new column file
//!                                                                                       │ synced
//!                                           old columns of these fragments retired ◄────┘ version
//! ```
//!
//! The rule is simple: always the columns, never the rows. Tables of the extended profile get the cells alone,
//! as overlays (`overlay/`). For every other fragment with a matching row one new
//! file holds the columns that are assigned, for all rows of the fragment, and takes the place of the old
//! ones. What is not assigned is neither read nor written, so pictures beside a caption stay where they
//! are, and rows keep their place and their row id. The price is that one cell costs a column of its
//! fragment, which is at most 1,048,576 values.
//!
//! Updates that wait for their turn beside each other go into one version (`update_group.rs`): a fragment
//! that many of them touch is written once.
//!
//! What always holds: memory is a few batches of [`BATCH_BYTES`] and one bit a row, whatever the table;
//! nothing is committed when no row matches; an expression is evaluated for rows that match only.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use datafusion::error::DataFusionError;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{DataOverlayGroup, DataReplacementGroup, Operation, Transaction};
use lance::dataset::{ProjectionRequest, TakeBuilder};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;
use roaring::RoaringBitmap;

use crate::column_patch::{
    Patched, RowPlaces, alone, ids_below, mask, mask_of, matching_rows, place, with_file,
};
use crate::commit::TRIES_MAX;
use crate::expressions::{Expressions, holds_blob, unknown};
use crate::lance_error::{StreamError, from_lance};
use crate::overlay::{self, Cells, Overlaid, address, fragment_of};
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::snapshot::{At, Snapshot};
use crate::sql_guard::check_sql;
use crate::table::{Branch, Table};
use crate::write::discard;

/// Rows that are read and written at a time.
const ROWS_MAX: u64 = 8_192;
/// Groups of updates, of different branches, that are under way at a time. Each takes up to 16 MiB: a few
/// batches of old and new values. What waits takes none.
pub(crate) const GROUPS_AT_ONCE: usize = 4;

impl Table {
    /// Sets columns to the values of SQL expressions in the rows for which `predicate` is true, or in all
    /// rows; returns how many, and the version with them. Nothing is committed when no row matches.
    /// Updates that wait for their turn beside each other are committed together.
    ///
    /// # Errors
    /// `InvalidArgument` naming the column that cannot be assigned or whose value does not fit, `NotFound`
    /// for one that does not exist.
    pub fn update_rows<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        predicate: Option<&'a str>,
        updates: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<(u64, u64)>> {
        async move {
            let limits = &self.shared.limits;
            if let Some(predicate) = predicate {
                check_sql(predicate, limits).map_err(|error| error.context("filter"))?;
            }
            let branch = self.branch(branch).await?;
            branch.check_no_view().await?;
            let _pin = branch.hold().await?;
            // What is wrong with it is said before it waits.
            let latest = branch.latest().await?;
            for (column, _) in updates {
                check_updatable(latest.schema(), column)?;
            }
            ColumnUpdate::new(latest.schema(), updates, limits)?;
            let predicate = predicate.map(str::to_owned);
            let update = RowUpdate { predicate, assignments: updates.to_vec() };
            branch.update_with_others(self, update).await
        }
        .boxed()
    }

    /// Does several updates in one version, none of which reads what one before it assigns. The caller
    /// holds the branch's mutation lock. How many rows each changed, and the version.
    pub(crate) async fn update_together(
        self: &Arc<Self>,
        branch: &Arc<Branch>,
        updates: &[&RowUpdate],
    ) -> Result<(Vec<u64>, u64)> {
        let _pin = branch.hold().await?;
        let _updating = self.shared.updating.acquire().await;
        let mut tries = 1;
        let mut turn = None;
        loop {
            let newest = branch.latest().await?.version().version;
            let snapshot = self.snapshot(branch.name.as_deref(), &At::Version(newest)).await?;
            let mut planned = Vec::with_capacity(updates.len());
            for RowUpdate { predicate, assignments } in updates {
                let schema = snapshot.dataset.schema();
                let update = ColumnUpdate::new(schema, assignments, &self.shared.limits)?;
                let matched = matching_rows(&snapshot.dataset, predicate.as_deref(), None).await?;
                planned.push((update, matched));
            }
            let rows = |matched: &RowPlaces| matched.values().map(RoaringBitmap::len).sum();
            let rows: Vec<u64> = planned.iter().map(|(_, matched)| rows(matched)).collect();
            planned.retain(|(_, matched)| !matched.is_empty());
            if planned.is_empty() {
                return Ok((rows, newest));
            }
            let updates = Updates::new(&snapshot, planned).await?;
            let Written { operation, written } = updates.write().await?;
            let transaction = Transaction::new(newest, operation, None);
            match branch.commit_on_newest(transaction, Vec::new(), None, turn.take()).await {
                Ok(committed) => return Ok((rows, committed.version().version)),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    let base = &snapshot.dataset.branch_location().path;
                    discard(&self.shared, base, &written).await?;
                    if tries == TRIES_MAX {
                        return Err(error);
                    }
                    tries += 1;
                    // Appends wait this time, or a table that is always appended to is never updated.
                    turn = Some(branch.turn().await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// An update as it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct RowUpdate {
    /// Which rows; all where absent.
    pub(crate) predicate: Option<String>,
    /// Columns and SQL expressions.
    pub(crate) assignments: Vec<(String, String)>,
}

/// The assignments of an update, planned on a schema.
pub(crate) struct ColumnUpdate {
    expressions: Expressions,
    /// The columns that are assigned, in the order of the assignments.
    assigned: Vec<Field>,
}

impl ColumnUpdate {
    pub(crate) fn new(
        schema: &Schema,
        updates: &[(String, String)],
        limits: &Limits,
    ) -> Result<ColumnUpdate> {
        let mut assigned: Vec<Field> = Vec::with_capacity(updates.len());
        for (column, _) in updates {
            let field = assignable(schema, column)?;
            if assigned.iter().any(|known| known.id == field.id) {
                return Err(Error::invalid(format!("column `{column}` is assigned twice")));
            }
            assigned.push(field.clone());
        }
        if assigned.is_empty() {
            return Err(Error::invalid("no column is assigned"));
        }
        let expressions = Expressions::new(schema, updates, limits)?;
        for ((column, from), field) in expressions.types()?.into_iter().zip(&assigned) {
            let to = field.data_type();
            if !can_cast_types(&from, &to) {
                return Err(Error::invalid(format!(
                    "column `{column}` has type {to}; the expression gives {from}"
                )));
            }
        }
        Ok(ColumnUpdate { expressions, assigned })
    }

    /// The columns that are read for it, without those of its predicate.
    pub(crate) fn reads(&self) -> Vec<String> {
        self.expressions.columns()
    }

    /// The columns that it assigns.
    pub(crate) fn assigns(&self) -> impl Iterator<Item = &str> {
        self.assigned.iter().map(|field| field.name.as_str())
    }
}

/// Updates planned on one version, with the rows of each.
struct Updates {
    snapshot: Snapshot,
    planned: Vec<(ColumnUpdate, RowPlaces)>,
    batch_rows: u32,
}

/// What an update wrote and did not commit.
struct Written {
    operation: Operation,
    /// The new files alone, for the case that they are not committed.
    written: Vec<Fragment>,
}

/// What is to be done to one fragment.
type Parts<'a> = Vec<(&'a ColumnUpdate, &'a RoaringBitmap)>;

impl Updates {
    async fn new(snapshot: &Snapshot, planned: Vec<(ColumnUpdate, RowPlaces)>) -> Result<Updates> {
        let mut names: Vec<String> = Vec::new();
        for (update, _) in &planned {
            names.extend(update.reads());
            names.extend(update.assigns().map(str::to_owned));
        }
        names.sort();
        names.dedup();
        let spec = ScanSpec { projection: Projection::Names(names), ..ScanSpec::default() };
        let batch_rows = snapshot.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
        let batch_rows = u32::try_from(batch_rows).unwrap_or(1);
        Ok(Updates { snapshot: snapshot.clone(), planned, batch_rows })
    }

    /// Writes the new cells, with or without the rest of their columns.
    async fn write(&self) -> Result<Written> {
        let mut places = RowPlaces::new();
        for (id, positions) in self.planned.iter().flat_map(|(_, matched)| matched) {
            *places.entry(*id).or_default() |= positions;
        }
        if overlay::suits(&self.snapshot.dataset, self.assigned(), &places) {
            let overlaid = self.overlay(&places).await?;
            let written = overlaid.written.clone();
            return Ok(Written { operation: overlaid.into_operation(), written });
        }
        let patched = self.patch().await?;
        let written = patched.written.clone();
        Ok(Written { operation: patched.into_operation(), written })
    }

    fn assigned(&self) -> impl Iterator<Item = &Field> {
        self.planned.iter().flat_map(|(update, _)| &update.assigned)
    }

    fn by_fragment(&self) -> BTreeMap<u32, Parts<'_>> {
        let mut by_fragment: BTreeMap<u32, Parts<'_>> = BTreeMap::new();
        for (update, matched) in &self.planned {
            for (id, positions) in matched {
                by_fragment.entry(*id).or_default().push((update, positions));
            }
        }
        by_fragment
    }

    /// Writes the new cells of every fragment that has a matching row, beside its columns.
    async fn overlay(&self, places: &RowPlaces) -> Result<Overlaid> {
        let mut overlaid = Overlaid::default();
        for (id, parts) in self.by_fragment() {
            let positions = places.get(&id).cloned().unwrap_or_default();
            match self.overlay_fragment(id, &parts, &positions).await {
                Ok(group) => group.into_iter().for_each(|group| overlaid.add(group)),
                Err(error) => {
                    let base = &self.snapshot.dataset.branch_location().path;
                    discard(&self.snapshot.table().shared, base, &overlaid.written).await?;
                    return Err(error);
                }
            }
        }
        Ok(overlaid)
    }

    async fn overlay_fragment(
        &self,
        id: u32,
        parts: &Parts<'_>,
        places: &RoaringBitmap,
    ) -> Result<Option<DataOverlayGroup>> {
        let dataset = &self.snapshot.dataset;
        let (target, read) = self.columns(parts);
        let fields: Vec<ArrowField> = target.fields.iter().map(ArrowField::from).collect();
        let schema = Arc::new(ArrowSchema::new(fields));
        let fragment = fragment_of(dataset, id)?;
        let plan = ProjectionRequest::from_schema(read).into_projection_plan(Arc::clone(dataset));
        let plan = Arc::new(plan.map_err(from_lance)?);
        let mut cells = Cells::open(&fragment, &target).await?;
        let positions: Vec<u32> = places.iter().collect();
        for some in positions.chunks(self.batch_rows.max(1) as usize) {
            let addresses = some.iter().map(|position| address(id, *position)).collect();
            let old =
                TakeBuilder::try_new_from_addresses(Arc::clone(dataset), addresses, plan.clone());
            let changed = async {
                let old = Box::pin(old.map_err(from_lance)?.execute()).await.map_err(from_lance)?;
                if old.num_rows() != some.len() {
                    return Err(Error::internal("rows of a version were not found where they lie"));
                }
                let matched = |positions: &RoaringBitmap| {
                    let is_matched = |row: &u32| {
                        some.get(*row as usize).is_some_and(|place| positions.contains(*place))
                    };
                    mask(some.len(), (0..some.len() as u32).filter(is_matched))
                };
                apply(&old, matched, &target.fields, &schema, parts)
            };
            match changed.await {
                Ok(changed) => cells.write(some, changed).await?,
                Err(error) => {
                    cells.abort().await;
                    return Err(error);
                }
            }
        }
        cells.finish().await
    }

    /// Writes the new columns of every fragment that has a matching row.
    async fn patch(&self) -> Result<Patched> {
        let mut fields: Vec<u32> = self.assigned().flat_map(ids_below).collect();
        fields.sort_unstable();
        fields.dedup();
        let mut patched = Patched { fields, ..Patched::default() };
        for (id, parts) in self.by_fragment() {
            match self.patch_fragment(id, &parts).await {
                Ok((fragment, written)) => {
                    let positions = parts.iter().fold(RoaringBitmap::new(), |all, it| all | it.1);
                    patched.add(fragment, written, positions);
                }
                Err(error) => {
                    let base = &self.snapshot.dataset.branch_location().path;
                    discard(&self.snapshot.table().shared, base, &patched.written).await?;
                    return Err(error);
                }
            }
        }
        Ok(patched)
    }

    async fn patch_fragment(&self, id: u32, parts: &Parts<'_>) -> Result<(Fragment, Fragment)> {
        let fragment = fragment_of(&self.snapshot.dataset, id)?;
        let rows = fragment.physical_rows().await.map_err(from_lance)? as u64;
        let (target, read) = self.columns(parts);
        let source = self.changed(&fragment, rows, &target, &read, parts).await?;
        let DataReplacementGroup(_, file) =
            Box::pin(fragment.write_columns(source, &target)).await.map_err(from_lance)?;

        let written = alone(&fragment, &file);
        let fragment = with_file(fragment.metadata().clone(), file);
        Ok((fragment, written))
    }

    /// The columns that are assigned in a fragment, and those that are read for it.
    fn columns(&self, parts: &Parts<'_>) -> (Schema, Schema) {
        let schema = self.snapshot.dataset.schema();
        let assigned = parts.iter().flat_map(|(update, _)| &update.assigned);
        let ids: Vec<i32> = assigned.map(|field| field.id).collect();
        let target = schema.project_by_ids(&ids, true);
        let names: Vec<String> = parts.iter().flat_map(|(update, _)| update.reads()).collect();
        let is_read = |field: &&Field| {
            names.contains(&field.name) || target.fields.iter().any(|it| it.id == field.id)
        };
        let ids: Vec<i32> = schema.fields.iter().filter(is_read).map(|field| field.id).collect();
        (target, schema.project_by_ids(&ids, true))
    }

    /// The assigned columns for every row of a fragment, deleted ones included, with their new values.
    async fn changed<'a>(
        &'a self,
        fragment: &FileFragment,
        rows: u64,
        target: &'a Schema,
        read: &Schema,
        parts: &'a Parts<'a>,
    ) -> Result<impl futures::Stream<Item = lance::Result<RecordBatch>> + Send + 'a> {
        let batches = fragment
            .read_physical_slice(0..rows, read, self.batch_rows)
            .await
            .map_err(from_lance)?;
        let fields: Vec<ArrowField> = target.fields.iter().map(ArrowField::from).collect();
        let written = Arc::new(ArrowSchema::new(fields));
        let mut next_row = 0_u64;
        Ok(batches.then(|batch| batch).map(move |batch| {
            let changed = batch.map_err(from_lance).and_then(|batch| {
                let (first, rows) = (next_row, batch.num_rows());
                next_row += rows as u64;
                let matched = |positions: &RoaringBitmap| mask_of(positions, first, rows);
                apply(&batch, matched, &target.fields, &written, parts)
            });
            changed.map_err(|error| {
                lance::Error::from(DataFusionError::External(Box::new(StreamError::new(&error))))
            })
        }))
    }
}

/// The columns `fields` of a batch after one update and then the next. `matched` tells the rows of the batch
/// that lie at such positions.
fn apply(
    batch: &RecordBatch,
    matched: impl Fn(&RoaringBitmap) -> BooleanArray,
    fields: &[Field],
    written: &SchemaRef,
    parts: &Parts<'_>,
) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let old = fields.iter().map(|field| {
        let column = batch.column_by_name(&field.name).cloned();
        column.ok_or_else(|| Error::internal(format!("column `{}` was not read", field.name)))
    });
    let mut columns = old.collect::<Result<Vec<ArrayRef>>>()?;
    for (update, positions) in parts {
        let mask = matched(positions);
        if mask.true_count() == 0 {
            continue;
        }
        // None of them reads what one before it assigned, so all read the batch as it was.
        let matching = filter_record_batch(batch, &mask)
            .map_err(|error| Error::internal("rows to change").with_source(error))?;
        let values = update.expressions.evaluate(&matching)?;
        for (value, field) in values.into_iter().zip(&update.assigned) {
            let at = fields.iter().position(|it| it.id == field.id);
            let column = at.and_then(|at| columns.get_mut(at));
            let column = column.ok_or_else(|| Error::internal("an assigned column is missing"))?;
            *column = place(column, &fit(field, &value)?, &mask, field)?;
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(written), columns, &options)
        .map_err(|error| Error::invalid(format!("the new values do not fit: {error}")))
}

/// Refuses values for a column that is computed.
fn check_updatable(schema: &Schema, column: &str) -> Result<()> {
    let field = schema.fields.iter().find(|field| field.name == column);
    let computed = field.and_then(|field| field.metadata.get("computed_column"));
    match computed.is_some_and(|value| value == "true") {
        true => Err(Error::invalid(format!("column `{column}` is computed and takes no values"))),
        false => Ok(()),
    }
}

/// The column of an assignment, if it may be assigned.
fn assignable<'a>(schema: &'a Schema, column: &str) -> Result<&'a Field> {
    let Some(field) = schema.fields.iter().find(|field| field.name == column) else {
        return match schema.field(column) {
            Some(_) => Err(Error::new(
                ErrorKind::NotImplemented,
                format!("an update of a part of a column (`{column}`) is not built"),
            )),
            None => Err(unknown(schema, column)),
        };
    };
    if holds_blob(field) {
        return Err(Error::invalid(format!(
            "column `{column}` holds blobs, which SQL cannot make; send them by an upsert"
        )));
    }
    if field.metadata.get("ARROW:extension:name").is_some_and(|name| name.ends_with(".json")) {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            format!("an update of column `{column}`, which holds JSON, is not built"),
        ));
    }
    Ok(field)
}

/// The values of an expression in the type of the column that they are assigned to.
fn fit(field: &Field, values: &ArrayRef) -> Result<ArrayRef> {
    let to = field.data_type();
    let misfit =
        |why: String| Error::invalid(format!("column `{}` of type {to}: {why}", field.name));
    // Not `safe`: a value that does not fit must be an error, never a null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = |values: &ArrayRef, to: &DataType| {
        cast_with_options(values, to, &options).map_err(|error| misfit(error.to_string()))
    };
    let fitted = cast(values, &to)?;
    if values.data_type().is_floating() && to.is_integer() {
        // Arrow cuts fractions off.
        let back = cast(&fitted, values.data_type())?;
        if back.to_data() != values.to_data() {
            return Err(misfit("a value with a fraction does not fit".to_owned()));
        }
    }
    if !field.nullable && fitted.null_count() > 0 {
        return Err(misfit("null is not allowed".to_owned()));
    }
    Ok(fitted)
}

#[cfg(test)]
mod tests {
    use arrow_array::{Float64Array, Int32Array, Int64Array};

    use super::*;

    fn field(data_type: DataType, nullable: bool) -> Field {
        Field::try_from(&ArrowField::new("n", data_type, nullable)).unwrap()
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_by_its_column() {
        let large: ArrayRef = Arc::new(Int64Array::from(vec![1, 1 << 40]));
        let half: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
        let whole: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.0), None]));
        let int = field(DataType::Int32, true);
        for bad in [&large, &half] {
            let error = fit(&int, bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains("`n`"), "{error}");
        }
        assert_eq!(fit(&int, &whole).unwrap().as_ref(), &Int32Array::from(vec![Some(2), None]));
        let error = fit(&field(DataType::Int32, false), &whole).unwrap_err();
        assert!(error.message().contains("null"), "{error}");
    }
}
