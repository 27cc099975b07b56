//! Update: new values for some columns of the rows that a predicate selects.
//!
//! ```text
//!   predicate ─► addresses of the rows ─► per fragment: columns named, row for row ─► new column file
//!                                                                                       │ synced
//!                                           old columns of these fragments retired ◄────┘ version
//! ```
//!
//! The rule is simple: always the columns, never the rows. For every fragment with a matching row one new
//! file holds the columns that are assigned, for all rows of the fragment, and takes the place of the old
//! ones. What is not assigned is neither read nor written, so pictures beside a caption stay where they
//! are, and rows keep their place and their row id. The price is that one cell costs a column of its
//! fragment, which is at most 1,048,576 values.
//!
//! What always holds: memory is a few batches of [`BATCH_BYTES`] and one bit a row, whatever the table;
//! nothing is committed when no row matches; an expression is evaluated for rows that match only.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use datafusion::error::DataFusionError;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{DataReplacementGroup, Transaction};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;
use roaring::RoaringBitmap;

use crate::column_patch::{Patched, RowPlaces, alone, ids_below, matching_rows, place, with_file};
use crate::commit::TRIES_MAX;
use crate::expressions::{Expressions, holds_blob, unknown};
use crate::lance_error::{StreamError, from_lance};
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::snapshot::{At, Snapshot};
use crate::sql_guard::check_sql;
use crate::table::Table;
use crate::write::discard;

/// Rows that are read and written at a time.
const ROWS_MAX: u64 = 8_192;

impl Table {
    /// Sets columns to the values of SQL expressions in the rows for which `predicate` is true, or in all
    /// rows; returns how many, and the version with them. Nothing is committed when no row matches.
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
            if let Some(predicate) = predicate {
                check_sql(predicate, &self.shared.limits)
                    .map_err(|error| error.context("filter"))?;
            }
            let branch = self.branch(branch).await?;
            let _mutation = branch.mutation.lock().await;
            let _pin = branch.hold().await?;
            let mut tries = 1;
            let mut turn = None;
            loop {
                let newest = branch.latest().await?.version().version;
                let snapshot = self.snapshot(branch.name.as_deref(), &At::Version(newest)).await?;
                let update = ColumnUpdate::new(&snapshot, updates).await?;
                let matched = matching_rows(&snapshot.dataset, predicate, None).await?;
                let rows: u64 = matched.values().map(RoaringBitmap::len).sum();
                if rows == 0 {
                    return Ok((0, newest));
                }
                let patched = update.patch(matched).await?;
                let written = patched.written.clone();
                let transaction = Transaction::new(newest, patched.into_operation(), None);
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
        .boxed()
    }
}

/// An update planned on one version.
struct ColumnUpdate {
    snapshot: Snapshot,
    expressions: Expressions,
    /// The columns that are assigned, in the order of the assignments.
    assigned: Vec<Field>,
    /// What is read of a fragment: the assigned columns and those that the expressions read.
    read: Schema,
    /// The assigned columns as they are written.
    written: SchemaRef,
    batch_rows: u32,
}

impl ColumnUpdate {
    async fn new(snapshot: &Snapshot, updates: &[(String, String)]) -> Result<ColumnUpdate> {
        let schema = snapshot.dataset.schema();
        let limits = &snapshot.table().shared.limits;
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
        let mut names = expressions.columns();
        for field in &assigned {
            if !names.contains(&field.name) {
                names.push(field.name.clone());
            }
        }
        let ids: Vec<i32> = schema
            .fields
            .iter()
            .filter(|field| names.contains(&field.name))
            .map(|field| field.id)
            .collect();
        let read = schema.project_by_ids(&ids, true);
        let fields: Vec<ArrowField> = assigned.iter().map(ArrowField::from).collect();
        let spec = ScanSpec { projection: Projection::Names(names), ..ScanSpec::default() };
        let batch_rows = snapshot.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
        Ok(ColumnUpdate {
            snapshot: snapshot.clone(),
            expressions,
            assigned,
            read,
            written: Arc::new(ArrowSchema::new(fields)),
            batch_rows: u32::try_from(batch_rows).unwrap_or(1),
        })
    }

    /// Writes the new columns of every fragment that has a matching row.
    async fn patch(&self, matched: RowPlaces) -> Result<Patched> {
        let mut patched = Patched { fields: self.field_ids(), ..Patched::default() };
        for (id, positions) in matched {
            let outcome = self.patch_fragment(id, &positions).await;
            match outcome {
                Ok((fragment, written)) => patched.add(fragment, written, positions),
                Err(error) => {
                    let base = &self.snapshot.dataset.branch_location().path;
                    discard(&self.snapshot.table().shared, base, &patched.written).await?;
                    return Err(error);
                }
            }
        }
        Ok(patched)
    }

    async fn patch_fragment(
        &self,
        id: u32,
        positions: &RoaringBitmap,
    ) -> Result<(Fragment, Fragment)> {
        let fragment = self
            .snapshot
            .dataset
            .get_fragment(id as usize)
            .ok_or_else(|| Error::internal(format!("fragment {id} is not in its version")))?;
        let rows = fragment.physical_rows().await.map_err(from_lance)? as u64;
        let ids: Vec<i32> = self.assigned.iter().map(|field| field.id).collect();
        let target = self.snapshot.dataset.schema().project_by_ids(&ids, true);
        let source = self.changed(&fragment, rows, positions).await?;
        let DataReplacementGroup(_, file) =
            Box::pin(fragment.write_columns(source, &target)).await.map_err(from_lance)?;

        let written = alone(&fragment, &file);
        let fragment = with_file(fragment.metadata().clone(), file);
        Ok((fragment, written))
    }

    /// The assigned columns for every row of a fragment, deleted ones included, with their new values.
    async fn changed<'a>(
        &'a self,
        fragment: &FileFragment,
        rows: u64,
        positions: &'a RoaringBitmap,
    ) -> Result<impl futures::Stream<Item = lance::Result<RecordBatch>> + Send + 'a> {
        let batches = fragment
            .read_physical_slice(0..rows, &self.read, self.batch_rows)
            .await
            .map_err(from_lance)?;
        let mut next_row = 0_u64;
        Ok(batches.then(|batch| batch).map(move |batch| {
            let changed = batch.map_err(from_lance).and_then(|batch| {
                let first = next_row;
                next_row += batch.num_rows() as u64;
                self.apply(&batch, first, positions)
            });
            changed.map_err(|error| {
                lance::Error::from(DataFusionError::External(Box::new(StreamError::new(&error))))
            })
        }))
    }

    /// The assigned columns of a batch whose first row is at position `first` of its fragment.
    fn apply(
        &self,
        batch: &RecordBatch,
        first: u64,
        positions: &RoaringBitmap,
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let is_matched = |row: usize| {
            u32::try_from(first + row as u64).is_ok_and(|position| positions.contains(position))
        };
        let mask = BooleanArray::from_iter((0..rows).map(|row| Some(is_matched(row))));
        let old = self.assigned.iter().map(|field| {
            let column = batch.column_by_name(&field.name).cloned();
            column.ok_or_else(|| Error::internal(format!("column `{}` was not read", field.name)))
        });
        let mut columns = old.collect::<Result<Vec<ArrayRef>>>()?;
        if mask.true_count() > 0 {
            let matching = filter_record_batch(batch, &mask)
                .map_err(|error| Error::internal("rows to change").with_source(error))?;
            let values = self.expressions.evaluate(&matching)?;
            for ((column, value), field) in columns.iter_mut().zip(values).zip(&self.assigned) {
                *column = place(column, &fit(field, &value)?, &mask, field)?;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.written), columns, &options)
            .map_err(|error| Error::invalid(format!("the new values do not fit: {error}")))
    }

    /// The assigned columns with everything below them: what an index may be on.
    fn field_ids(&self) -> Vec<u32> {
        self.assigned.iter().flat_map(ids_below).collect()
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
