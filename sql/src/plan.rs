//! A planned query: what it answers with, what it read-locks, and how it is run.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use lakebed_core::{Error, Limits, Result};
use lakebed_storage::Snapshot;
use serde::{Deserialize, Serialize};

use crate::BatchStream;
use crate::calls::{self, Callees};
use crate::error::from_datafusion;
use crate::expression::Bound;
use crate::json_columns;
use crate::late_blobs::LateBlobs;
use crate::run::{self, Run};
use crate::views::PinnedView;

/// The version of a table that a planned query reads, so that it can be planned again over the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedTable {
    /// The table and the version as the statement names them.
    pub(crate) named: String,
    pub(crate) database: String,
    pub(crate) uid: String,
    pub(crate) branch: Option<String>,
    pub(crate) version: u64,
    /// Where it is no table but a view: its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) view: Option<PinnedView>,
}

/// A query over pinned versions. Dropping it lets go of them.
pub struct PlannedQuery {
    pub(crate) state: SessionState,
    pub(crate) plan: LogicalPlan,
    /// Blobs that are fetched for the rows of the answer.
    pub(crate) late: Option<LateBlobs>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) pins: Vec<PinnedTable>,
    pub(crate) limits: Limits,
    pub(crate) callees: Arc<dyn Callees>,
}

impl std::fmt::Debug for PlannedQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlannedQuery").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl PlannedQuery {
    /// What it reads.
    pub fn pins(&self) -> &[PinnedTable] {
        &self.pins
    }

    /// Keeps the versions that it reads at least until `until_ms`.
    pub fn lease(&self, until_ms: i64) {
        for snapshot in &self.snapshots {
            snapshot.lease(until_ms);
        }
    }

    /// The schema of its rows.
    ///
    /// # Errors
    /// `InvalidArgument` or `NotFound` for what planning finds only when types are known.
    pub fn schema(&self) -> Result<SchemaRef> {
        let described = match self.parameters()?.is_empty() {
            false => schema_of(&self.plan),
            true => schema_of(&self.state.optimize(&self.plan).map_err(from_datafusion)?),
        };
        json_columns::shown_schema(&match &self.late {
            Some(late) => late.schema(&described),
            None => described,
        })
    }

    /// The parameters that are not bound yet, in their order; one whose type is not known is of type
    /// Null.
    ///
    /// # Errors
    /// `InvalidArgument` for a parameter that is used as two types, or a number that is left out.
    pub fn parameters(&self) -> Result<Vec<FieldRef>> {
        parameters_of(&self.plan)
    }

    /// Gives the parameters their values.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that does not fit.
    pub fn bind(mut self, bound: &Bound) -> Result<PlannedQuery> {
        if !bound.values.is_empty() {
            let plan = self.plan.with_param_values(bound.values.clone());
            self.plan = plan.map_err(from_datafusion)?;
        }
        Ok(self)
    }

    /// Gives the parameters of an INSERT their values: a row of VALUES becomes one for each of `batch`.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that does not fit, or several rows for anything but one of VALUES.
    pub(crate) fn bind_rows(mut self, batch: &RecordBatch) -> Result<PlannedQuery> {
        let mut is_multiplied = false;
        let plan = self.plan.clone().transform_up(|node| {
            let LogicalPlan::Values(values) = &node else { return Ok(Transformed::no(node)) };
            let [row] = values.values.as_slice() else { return Ok(Transformed::no(node)) };
            is_multiplied = true;
            let rows = from_parameters(row, values.schema.as_ref(), batch)?;
            Ok(Transformed::yes(rows))
        });
        let plan = plan.map_err(from_datafusion)?.data;
        if is_multiplied {
            self.plan = plan;
            return Ok(self);
        }
        if batch.num_rows() != 1 {
            return Err(Error::invalid(
                "several sets of parameters are for INSERT with one row of VALUES, UPDATE and DELETE",
            ));
        }
        let bound = Bound::row(batch, 0)?;
        self.bind(&bound)
    }

    /// Runs the query.
    ///
    /// # Errors
    /// `InvalidArgument` for a parameter without a value and for what planning finds.
    pub async fn run(self) -> Result<(SchemaRef, BatchStream)> {
        if let Some(missing) = self.parameters()?.first() {
            let name = missing.name();
            return Err(Error::invalid(format!("parameter {name} has no value")));
        }
        let deadline = run::deadline(&self.limits);
        let plan = calls::resolved(self.plan.clone(), &self.state, &self.callees);
        let plan = run::until(deadline, &self.limits, plan).await??;
        let plan = self.state.create_physical_plan(&plan);
        let plan = run::until(deadline, &self.limits, plan).await?.map_err(from_datafusion)?;
        let optimized = self.state.optimize(&self.plan).map_err(from_datafusion)?;
        let is_explained = matches!(self.plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
        let schema = if is_explained { plan.schema() } else { schema_of(&optimized) };
        let stream = datafusion::physical_plan::execute_stream(plan, self.state.task_ctx())
            .map_err(from_datafusion)?;
        let limits = self.limits.clone();
        let run = Run {
            stream,
            schema: Arc::clone(&schema),
            is_explained,
            _held: (self.state, self.snapshots),
        };
        let (schema, batches) = match self.late {
            Some(late) => {
                let shown = late.schema(&schema);
                (Arc::clone(&shown), late.fill(run.into_stream(), shown))
            }
            None => (schema, run.into_stream()),
        };
        let shown = json_columns::shown_schema(&schema)?;
        let batches = json_columns::shown_rows(&schema, batches);
        Ok((shown, run::bounded(batches, deadline, limits)))
    }
}

/// The row of expressions once for each row of `batch`, whose columns are `$1`, `$2` and so on.
fn from_parameters(
    row: &[Expr],
    schema: &DFSchema,
    batch: &RecordBatch,
) -> datafusion::common::Result<LogicalPlan> {
    let fields: Vec<FieldRef> = batch
        .schema_ref()
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| {
            let name = format!("${}", at + 1);
            Arc::new(Field::new(name, field.data_type().clone(), true))
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    let batch =
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
    let source = provider_as_source(Arc::new(table));
    let input = LogicalPlanBuilder::scan("parameters", source, None)?;
    let given = input.schema().clone();
    let mut exprs = Vec::with_capacity(row.len());
    for (expr, field) in row.iter().zip(schema.fields()) {
        let expr = expr.clone().transform(|expr| match &expr {
            Expr::Placeholder(placeholder) => {
                let column = Column::from_name(placeholder.id.clone());
                Ok(Transformed::yes(Expr::Column(column)))
            }
            _ => Ok(Transformed::no(expr)),
        })?;
        let expr = expr.data.cast_to(field.data_type(), &given)?;
        exprs.push(expr.alias(field.name()));
    }
    input.project(exprs)?.build()
}

/// The schema of a plan's rows.
pub(crate) fn schema_of(plan: &LogicalPlan) -> SchemaRef {
    // Metadata of one of the tables says nothing of a result.
    Arc::new(Schema::new(plan.schema().as_arrow().fields().clone()))
}

/// The parameters of a plan in their order.
pub(crate) fn parameters_of(plan: &LogicalPlan) -> Result<Vec<FieldRef>> {
    let found = plan.get_parameter_fields().map_err(from_datafusion)?;
    let mut fields: Vec<FieldRef> = Vec::with_capacity(found.len());
    for number in 1..=found.len() {
        let name = format!("${number}");
        let Some(field) = found.get(&name) else {
            return Err(Error::invalid(format!("parameter {name} is left out")));
        };
        let data_type = field.as_ref().map_or(DataType::Null, |field| field.data_type().clone());
        fields.push(Arc::new(Field::new(name, data_type, true)));
    }
    Ok(fields)
}
