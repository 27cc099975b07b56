//! Add columns whose values SQL computes from the others, once, for the rows that are there now.
//!
//! Such a column allows null whatever its expression: rows that are appended later, or were on their way,
//! need not carry it.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema as ArrowSchema, SchemaRef};
use datafusion::error::DataFusionError;
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::transaction::Operation;
use lance::dataset::{BatchUDF, NewColumnTransform};
use lance_table::format::Fragment;

use super::{Staged, give_up, new_columns, with_columns, written_files};
use crate::expressions::Expressions;
use crate::lance_error::{StreamError, from_lance};
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::snapshot::At;
use crate::table::Table;

/// Rows that are read and written at a time.
const ROWS_MAX: u64 = 8_192;

impl Table {
    /// Adds a column for each `(name, SQL expression)`; returns the version with them.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists or cannot be stored, or the expression that does not
    /// parse, reads a blob column or fails for a row.
    pub fn add_sql_columns<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        columns: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<u64>> {
        async move {
            if columns.is_empty() {
                return Err(Error::invalid("no column is given"));
            }
            let branch = self.branch(branch).await?;
            branch.check_no_view().await?;
            let (name, limits) = (branch.name.as_deref(), &self.shared.limits);
            let committed = self
                .change_columns(&branch, |latest| async move {
                    let expressions = Expressions::new(latest.schema(), columns, limits)?;
                    let fields = expressions.types()?.into_iter();
                    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
                    let stored = new_columns(latest.schema(), fields.collect(), limits)?;
                    let schema = with_columns(&latest, &stored)?;
                    let read = expressions.columns();
                    let batch_rows = self.rows_of_batch(name, &latest, &read).await?;
                    let computed = Computed { expressions, schema: Arc::new(stored), batch_rows };
                    let fragments = computed.write(self, &latest).await?;
                    let written = written_files(latest.fragments(), &fragments);
                    let operation =
                        Operation::Merge { fragments, schema, preserves_nullability: true };
                    Ok(Staged { operation, written })
                })
                .await?;
            Ok(committed.version().version)
        }
        .boxed()
    }

    /// Rows that are read at a time of some columns of a version.
    pub(super) async fn rows_of_batch(
        self: &Arc<Self>,
        branch: Option<&str>,
        dataset: &Dataset,
        columns: &[String],
    ) -> Result<u32> {
        if columns.is_empty() {
            return Ok(ROWS_MAX as u32);
        }
        let snapshot = self.snapshot(branch, &At::Version(dataset.version().version)).await?;
        let projection = Projection::Names(columns.to_vec());
        let spec = ScanSpec { projection, ..ScanSpec::default() };
        let rows = snapshot.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
        Ok(u32::try_from(rows).unwrap_or(1))
    }
}

/// Columns that are computed from others, batch by batch.
pub(super) struct Computed {
    expressions: Expressions,
    schema: SchemaRef,
    batch_rows: u32,
}

impl Computed {
    /// Writes the columns of every fragment; the fragments with them come back.
    async fn write(&self, table: &Table, dataset: &Dataset) -> Result<Vec<Fragment>> {
        let (expressions, schema) = (self.expressions.clone(), Arc::clone(&self.schema));
        let mapper = move |batch: &RecordBatch| {
            let columns = expressions.evaluate(batch)?;
            RecordBatch::try_new(Arc::clone(&schema), columns)
                .map_err(|error| Error::invalid(format!("the values do not fit: {error}")))
        };
        let read = self.expressions.columns();
        write_columns(table, dataset, &self.schema, read, self.batch_rows, mapper).await
    }
}

/// Writes new columns of every fragment of a version, which `mapper` makes of `read`; the fragments with
/// them come back. What was written is deleted when one fails.
pub(super) async fn write_columns(
    table: &Table,
    dataset: &Dataset,
    schema: &Arc<ArrowSchema>,
    read: Vec<String>,
    batch_rows: u32,
    mapper: impl Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + Clone + 'static,
) -> Result<Vec<Fragment>> {
    let mut fragments = Vec::new();
    for fragment in dataset.get_fragments() {
        let mapper = mapper.clone();
        let transform = NewColumnTransform::BatchUDF(BatchUDF {
            mapper: Box::new(move |batch| {
                mapper(batch).map_err(|error| {
                    DataFusionError::External(Box::new(StreamError::new(&error))).into()
                })
            }),
            output_schema: Arc::clone(schema),
            result_checkpoint: None,
        });
        let added = fragment.add_columns(transform, Some(read.clone()), Some(batch_rows));
        match Box::pin(added).await {
            Ok((fragment, _)) => fragments.push(fragment),
            Err(error) => {
                give_up(&table.shared, dataset, &fragments).await?;
                return Err(from_lance(error));
            }
        }
    }
    Ok(fragments)
}
