//! The query of a materialized view over one table or another.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, SelectItem, SetExpr, Statement as Ast, TableFactor,
};
use futures::TryStreamExt as _;
use lakebed_core::{DatabaseName, Error, Limits, Result};
use lakebed_storage::{ChangedRows, Extras, MaterializedView, SOURCE_ROW_ID, Snapshot, carry};

use super::ROW_ID;
use crate::BatchStream;
use crate::change::TARGET;
use crate::engine::{Sql, syntax};
use crate::error::from_datafusion;
use crate::hidden::take_extras;
use crate::names::{Scope, parts_of};
use crate::plan::PlannedQuery;
use crate::search::alias_of;
use crate::views::query_of;

/// How long a refresh may take: it is no answer that somebody waits for.
const TIME_MS_MAX: u64 = 30 * 24 * 3_600_000;

impl Sql {
    /// The query of a view over a version of its source: every row, with the source's row id.
    ///
    /// # Errors
    /// `NotFound` for a column that the source has no more, `InvalidArgument` for one of another type.
    pub async fn view_rows(
        &self,
        view: &MaterializedView,
        source: &Snapshot,
    ) -> Result<PlannedQuery> {
        self.plan_over_version(view, source, true).await
    }

    /// The same, `with_ids` of the source's rows or without.
    pub(super) async fn plan_over_version(
        &self,
        view: &MaterializedView,
        source: &Snapshot,
        with_ids: bool,
    ) -> Result<PlannedQuery> {
        let mut extras = Extras {
            blob_bytes_max: self.limits().sql_blob_bytes_max,
            blob_bytes_limit: "sql_blob_bytes_max",
            ..Extras::default()
        };
        let tree = tree_of(view, with_ids, self.limits())?;
        if let Some(statement) = syntax(&mut tree.clone()) {
            take_extras(statement, &mut extras)?;
        }
        let (table, _) = source.table_provider(extras, None).await?;
        let mut planned = self.plan_over_source(view, tree, table).await?;
        planned.snapshots.push(source.clone());
        Ok(planned)
    }

    /// The query of a view over rows of its source that changed, which are those of `source`.
    ///
    /// # Errors
    /// As [`Sql::view_rows`].
    pub async fn view_changes(
        &self,
        view: &MaterializedView,
        source: &Snapshot,
        rows: ChangedRows,
    ) -> Result<PlannedQuery> {
        let ChangedRows { schema, batches, .. } = rows;
        let fields = schema.fields().iter().map(|field| match source.is_blob(field.name()) {
            // What a statement reads of a blob column.
            true => {
                let name = Extras::blob_column(field.name());
                let bytes = Field::new(name, DataType::LargeBinary, true);
                Arc::new(bytes.with_metadata(field.metadata().clone()))
            }
            false => Arc::clone(field),
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let once = Once { schema: Arc::clone(&schema), batches: Mutex::new(Some(batches)) };
        let table =
            StreamingTable::try_new(schema, vec![Arc::new(once)]).map_err(from_datafusion)?;
        let tree = tree_of(view, true, self.limits())?;
        let mut planned = self.plan_over_source(view, tree, Arc::new(table)).await?;
        planned.snapshots.push(source.clone());
        Ok(planned)
    }

    async fn plan_over_source(
        &self,
        view: &MaterializedView,
        tree: DfStatement,
        table: Arc<dyn TableProvider>,
    ) -> Result<PlannedQuery> {
        let scope = Scope::new(&DatabaseName::parse(&view.database)?, None)?;
        let mut planned = self.plan_tree(&scope, tree, None, Some(table)).await?;
        planned.limits.sql_time_ms_max = TIME_MS_MAX;
        planned.limits.sql_result_bytes_max = u64::MAX;
        Ok(planned)
    }
}

/// The query with a table of no name of the lake in the place of the source, and with its row ids.
fn tree_of(view: &MaterializedView, with_ids: bool, limits: &Limits) -> Result<DfStatement> {
    let mut tree = query_of(&view.query, limits)?;
    let broken = || Error::internal("the query of a materialized view is not what it was");
    let Some(Ast::Query(query)) = syntax(&mut tree) else { return Err(broken()) };
    let Query { body, .. } = query.as_mut();
    let SetExpr::Select(select) = body.as_mut() else { return Err(broken()) };
    let Some(from) = select.from.first_mut() else { return Err(broken()) };
    let TableFactor::Table { name, alias, .. } = &mut from.relation else { return Err(broken()) };
    let own = parts_of(name)?.pop().ok_or_else(broken)?;
    alias.get_or_insert_with(|| alias_of(&own));
    *name = ObjectName::from(vec![Ident::with_quote('"', format!("source{TARGET}"))]);
    if with_ids {
        select.projection.push(SelectItem::ExprWithAlias {
            expr: Expr::Identifier(Ident::with_quote('"', ROW_ID)),
            alias: Ident::with_quote('"', SOURCE_ROW_ID),
        });
    }
    Ok(tree)
}

/// Batches that are read once.
struct Once {
    schema: SchemaRef,
    batches: Mutex<Option<BatchStream>>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner).take();
        let rows = async move {
            let batches = batches.ok_or_else(|| {
                carry(&Error::internal("rows that changed are read a second time"))
            })?;
            Ok::<_, DataFusionError>(batches.map_err(|error| carry(&error)))
        };
        let shown = Arc::clone(&schema);
        let rows = futures::stream::once(rows).try_flatten().and_then(move |batch| {
            let columns = batch.columns().to_vec();
            let batch = RecordBatch::try_new(Arc::clone(&shown), columns);
            std::future::ready(batch.map_err(DataFusionError::from))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}
