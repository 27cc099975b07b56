//! A pinned version as a table of DataFusion.
//!
//! ```text
//!   projection, filters, limit ──► lance's scanner ──► plan ──► (blobs as bytes) ──► DataFusion
//! ```
//!
//! Why not lance's own provider: a scan has the bounds of every other read of the lake (bytes of
//! read-ahead, bytes of a batch by the width of its rows), and the version stays pinned for as long as
//! the provider or a plan of it lives. Columns that are only there when they are named (the system's, and
//! a blob column's bytes as `blob_bytes(column)`) are asked for in [`Extras`].
//!
//! What always holds: projection, filters and limit are lance's to apply, so that its indexes and its
//! statistics are used; the bytes of a blob are fetched in groups of a few MiB, only where they are read.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as PlanResult;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use futures::{Stream, StreamExt};
use lakebed_core::{Error, Result};
use lance::io::exec::count_pushdown::CountPushdown;

use crate::blob_bytes::{BlobBytes, row_id_column};
use crate::lance_error::{StreamError, from_lance};
use crate::row_mask::RowMask;
use crate::scan::{BatchStream, Projection, ScanSpec};
use crate::schema::BLOB_METADATA;
use crate::snapshot::Snapshot;

/// Columns that lance makes up for every row, in the order in which a table shows them.
pub const SYSTEM_COLUMNS: [&str; 4] =
    ["_rowid", "_rowaddr", "_row_created_at_version", "_row_last_updated_at_version"];

/// Rows of a batch: few enough to stay in the processor's caches while they are worked on.
const BATCH_ROWS: u64 = 16_384;
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_BYTES_MAX: u64 = 16 << 20;
/// Rows of a batch whose blobs are fetched.
const BLOB_BATCH_ROWS: u64 = 256;
/// Bytes that one scan may read ahead.
const READ_AHEAD_BYTES: u64 = 32 << 20;
const FRAGMENT_READAHEAD: usize = 4;

/// Columns that a table shows only because a statement names them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extras {
    /// Of [`SYSTEM_COLUMNS`].
    pub system: Vec<String>,
    /// Columns whose bytes are asked for; those that are no blob columns of the table are left out.
    pub blob_bytes: Vec<String>,
    /// Bytes of one blob that may be fetched.
    pub blob_bytes_max: u64,
    /// The limit's name.
    pub blob_bytes_limit: &'static str,
}

impl Extras {
    /// The name of the column that has the bytes of blob column `column`.
    pub fn blob_column(column: &str) -> String {
        format!("blob_bytes({column})")
    }
}

/// The rule that answers counts from indexes, for sessions that plan over these tables.
pub fn count_rule() -> Arc<dyn datafusion::physical_optimizer::PhysicalOptimizerRule + Send + Sync>
{
    Arc::new(CountPushdown)
}

/// The error of ours that DataFusion carried, or that of lance converted; nothing for others.
pub fn carried_error(error: &DataFusionError) -> Option<Error> {
    crate::lance_error::from_datafusion(error)
}

/// An error of ours in the form in which DataFusion carries it.
pub fn carry(error: &Error) -> DataFusionError {
    DataFusionError::External(Box::new(StreamError::new(error)))
}

impl Snapshot {
    /// The version as a table, with the columns of `extras` at the end; and the names of those. With `rows`
    /// it has no rows but those that this selects.
    ///
    /// # Errors
    /// Those of reading the version's schema.
    pub async fn table_provider(
        &self,
        extras: Extras,
        rows: Option<Arc<RowMask>>,
    ) -> Result<(Arc<dyn TableProvider>, Vec<String>)> {
        let stored = self.scan_schema(&ScanSpec::default()).await?;
        let blobs: Vec<String> =
            extras.blob_bytes.iter().filter(|name| self.is_blob(name)).cloned().collect();
        let mut fields: Vec<FieldRef> = stored.fields().iter().cloned().collect();
        let hidden_from = fields.len();
        for name in &extras.system {
            fields.push(Arc::new(Field::new(name, DataType::UInt64, true)));
        }
        for name in &blobs {
            let metadata = [(BLOB_METADATA.to_owned(), "true".to_owned())];
            let field = Field::new(Extras::blob_column(name), DataType::LargeBinary, true);
            fields.push(Arc::new(field.with_metadata(metadata.into())));
        }
        let hidden = fields[hidden_from..].iter().map(|field| field.name().clone()).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, stored.metadata().clone()));
        let table = SnapshotTable { snapshot: self.clone(), schema, blobs, extras, rows };
        Ok((Arc::new(table), hidden))
    }
}

impl Snapshot {
    /// Whether a top-level column is a blob column.
    pub fn is_blob(&self, column: &str) -> bool {
        self.dataset.schema().field(column).is_some_and(|field| field.is_blob())
    }

    /// Replaces descriptors by bytes in batches that come with their rows' ids. `shown` has the columns of
    /// `schema` that show bytes, and the blob columns that they show.
    pub fn fill_blobs(
        &self,
        shown: Vec<(String, String)>,
        extras: &Extras,
        described: impl Stream<Item = Result<(RecordBatch, Vec<u64>)>> + Send + 'static,
        schema: SchemaRef,
    ) -> BatchStream {
        let (bytes_max, limit) = (extras.blob_bytes_max, extras.blob_bytes_limit);
        BlobBytes::shown(self, shown, bytes_max, limit).fill(described, schema)
    }
}

/// See the module.
struct SnapshotTable {
    snapshot: Snapshot,
    schema: SchemaRef,
    /// Blob columns whose bytes the schema shows.
    blobs: Vec<String>,
    extras: Extras,
    /// The only rows that it has; all without.
    rows: Option<Arc<RowMask>>,
}

impl fmt::Debug for SnapshotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotTable").field("version", &self.snapshot.version()).finish()
    }
}

impl SnapshotTable {
    /// The blob column whose bytes a column of the schema shows.
    fn blob_of(&self, column: &str) -> Option<&str> {
        let blob = self.blobs.iter().find(|blob| Extras::blob_column(blob) == column);
        blob.map(String::as_str)
    }

    /// Whether lance can apply a filter: it knows stored and system columns, no blob's bytes.
    fn is_for_lance(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let is_known = columns.iter().all(|column| {
            let stored = self.snapshot.dataset.schema().field(&column.name);
            match stored {
                Some(field) => !field.is_blob(),
                None => self.extras.system.contains(&column.name),
            }
        });
        is_known && !filter.is_volatile() && !has_subquery(filter)
    }

    async fn plan(
        &self,
        state: &dyn Session,
        names: &[String],
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let spec =
            ScanSpec { projection: Projection::Names(names.to_vec()), ..ScanSpec::default() };
        let has_blobs = names.iter().any(|name| self.blob_of(name).is_some());
        let rows_max = if has_blobs { BLOB_BATCH_ROWS } else { BATCH_ROWS };
        // Filters are read beside the projection, yet their columns are seldom wide.
        let rows = self.snapshot.rows_of(&spec, BATCH_BYTES, rows_max).await?;
        let mut read: Vec<String> = Vec::with_capacity(names.len());
        for name in names {
            let column = self.blob_of(name).unwrap_or(name).to_owned();
            if !read.contains(&column) {
                read.push(column);
            }
        }
        if has_blobs && !read.iter().any(|name| name == "_rowid") {
            read.push("_rowid".to_owned());
        }
        let mut scanner = self.snapshot.dataset.scan();
        scanner.project(&read).map_err(from_lance)?;
        if let Some(filter) = conjunction(filters.to_vec()) {
            scanner.filter_expr(filter);
        }
        if let Some(rows) = &self.rows {
            rows.apply(&mut scanner);
        }
        if let Some(limit) = limit {
            scanner
                .limit(Some(i64::try_from(limit).unwrap_or(i64::MAX)), None)
                .map_err(from_lance)?;
        }
        let threads = state.config().target_partitions().max(1);
        scanner
            .scan_in_order(false)
            .batch_size(rows as usize)
            .batch_size_bytes(BATCH_BYTES_MAX)
            .io_buffer_size(READ_AHEAD_BYTES)
            .batch_readahead(threads)
            .fragment_readahead(FRAGMENT_READAHEAD);
        let plan = scanner.create_plan().await.map_err(from_lance)?;
        if !has_blobs {
            return Ok(plan);
        }
        let shown = names.iter().filter_map(|name| {
            let column = self.blob_of(name)?;
            Some((name.clone(), column.to_owned()))
        });
        let bytes = BlobBytes::shown(
            &self.snapshot,
            shown.collect(),
            self.extras.blob_bytes_max,
            self.extras.blob_bytes_limit,
        );
        let fields: Vec<FieldRef> = names
            .iter()
            .filter_map(|name| self.schema.field_with_name(name).ok())
            .map(|field| Arc::new(field.clone()))
            .collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()));
        Ok(Arc::new(BlobBytesExec::new(plan, bytes, schema)))
    }
}

fn has_subquery(filter: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    filter
        .exists(|expr| {
            Ok(matches!(
                expr,
                Expr::ScalarSubquery(_)
                    | Expr::InSubquery(_)
                    | Expr::Exists(_)
                    | Expr::OuterReferenceColumn(..)
            ))
        })
        .unwrap_or(true)
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize>;
        let indices = match projection {
            Some(indices) => indices,
            None => {
                all = (0..self.schema.fields().len()).collect();
                &all
            }
        };
        let names: Vec<String> =
            indices.iter().map(|index| self.schema.field(*index).name().clone()).collect();
        self.plan(state, &names, filters, limit).await.map_err(|error| carry(&error))
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match self.is_for_lance(filter) {
                true => TableProviderFilterPushDown::Exact,
                false => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }
}

/// Fetches the bytes of blobs for the rows that its input describes.
#[derive(Debug)]
struct BlobBytesExec {
    input: Arc<dyn ExecutionPlan>,
    bytes: BlobBytes,
    properties: Arc<PlanProperties>,
}

impl BlobBytesExec {
    fn new(input: Arc<dyn ExecutionPlan>, bytes: BlobBytes, schema: SchemaRef) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        BlobBytesExec { input, bytes, properties: Arc::new(properties) }
    }
}

impl DisplayAs for BlobBytesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobBytesExec: columns=[{}]", self.bytes.columns().join(", "))
    }
}

impl ExecutionPlan for BlobBytesExec {
    fn name(&self) -> &str {
        "BlobBytesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // Each partition holds two groups of blobs in memory.
        vec![false]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| self.input.clone());
        Ok(Arc::new(BlobBytesExec::new(input, self.bytes.clone(), self.schema())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let described = self.input.execute(partition, context)?.map(|batch| {
            let batch = batch.map_err(|error| from_lance(lance::Error::from(error)))?;
            let row_ids = row_id_column(&batch)?.values().to_vec();
            Ok((batch, row_ids))
        });
        let schema = self.schema();
        let filled = self.bytes.clone().fill(described, schema.clone());
        let filled = filled.map(|batch| batch.map_err(|error| carry(&error)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, filled)))
    }
}
