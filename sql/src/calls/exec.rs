//! Makes the calls of a step: cuts rows into groups, hands them over, and puts the results beside them.
//!
//! ```text
//!   input ─► arguments ─► groups of rows ─► handed over, several at once ─► results, in the rows' order
//! ```
//!
//! What always holds: a statement has at most [`UNDER_WAY`] groups under way, with at most
//! [`UNDER_WAY_BYTES`] of arguments unless one row alone has more; what they and their results take is in the
//! statement's memory. Dropping the stream calls them off.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Fields, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use async_trait::async_trait;
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, Result};
use lakebed_storage::carry;
use tokio::sync::{OnceCell, Semaphore};

use super::node::{Call, Evaluate};
use super::{Callee, Callees, RunningCall, TASK_BYTES, TASK_ROWS, evaluate};

/// Groups of rows that a statement has under way at once.
const UNDER_WAY: usize = 16;
/// Bytes of their arguments, counted in units.
const UNDER_WAY_BYTES: usize = 64 << 20;
const UNIT_BYTES: usize = 64 << 10;

/// Plans statements with calls.
#[derive(Debug)]
pub(crate) struct CallPlanner {
    callees: Arc<dyn Callees>,
}

impl CallPlanner {
    /// For statements whose calls are run by `callees`.
    pub(crate) fn new(callees: Arc<dyn Callees>) -> CallPlanner {
        CallPlanner { callees }
    }
}

#[async_trait]
impl datafusion::execution::context::QueryPlanner for CallPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        state: &SessionState,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let steps = Steps { callees: Arc::clone(&self.callees), room: Arc::new(Room::new()) };
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(steps)]);
        planner.create_physical_plan(plan, state).await
    }
}

/// Plans the steps of one statement.
struct Steps {
    callees: Arc<dyn Callees>,
    room: Arc<Room>,
}

#[async_trait]
impl ExtensionPlanner for Steps {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        state: &SessionState,
    ) -> PlanResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<Evaluate>() else { return Ok(None) };
        let (Some(above), Some(input)) = (logical_inputs.first(), physical_inputs.first()) else {
            return datafusion::common::internal_err!("calls without rows");
        };
        let calls = node.calls.iter().map(|call| {
            let args = call.args.iter();
            let args = args.map(|arg| planner.create_physical_expr(arg, above.schema(), state));
            let args = args.collect::<PlanResult<Vec<_>>>()?;
            Ok(Step { call: call.clone(), args, running: OnceCell::new() })
        });
        let shared = Shared {
            steps: calls.collect::<PlanResult<Vec<_>>>()?,
            callees: Arc::clone(&self.callees),
            room: Arc::clone(&self.room),
        };
        Ok(Some(Arc::new(EvaluateExec::new(Arc::clone(input), Arc::new(shared))?)))
    }
}

/// What a statement may have under way.
#[derive(Debug)]
struct Room {
    groups: Semaphore,
    bytes: Semaphore,
}

impl Room {
    fn new() -> Room {
        let units = UNDER_WAY_BYTES / UNIT_BYTES;
        Room { groups: Semaphore::new(UNDER_WAY), bytes: Semaphore::new(units) }
    }
}

/// The calls of one step, for all of its partitions.
#[derive(Debug)]
struct Shared {
    steps: Vec<Step>,
    callees: Arc<dyn Callees>,
    room: Arc<Room>,
}

struct Step {
    call: Call,
    args: Vec<Arc<dyn PhysicalExpr>>,
    /// Begun when there is a row.
    running: OnceCell<Arc<dyn RunningCall>>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("call", &self.call.to_string()).finish()
    }
}

/// The row of constants of a function that takes some.
///
/// # Errors
/// `Internal` when they do not fit.
pub(super) fn constant_row(
    callee: &Callee,
    constants: &[ScalarValue],
) -> Result<Option<RecordBatch>> {
    let Callee::Function(function) = callee else { return Ok(None) };
    if function.constants.is_empty() {
        return Ok(None);
    }
    let failed = |error: DataFusionError| Error::internal("constants").with_source(error);
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (value, wanted) in constants.iter().zip(&function.constants) {
        columns.push(value.to_array().map_err(failed)?);
        fields.push(Field::new(&wanted.name, wanted.data_type.clone(), wanted.nullable));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map(Some)
        .map_err(|error| Error::internal("constants").with_source(error))
}

/// See the module.
#[derive(Debug)]
struct EvaluateExec {
    input: Arc<dyn ExecutionPlan>,
    shared: Arc<Shared>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl EvaluateExec {
    fn new(input: Arc<dyn ExecutionPlan>, shared: Arc<Shared>) -> PlanResult<EvaluateExec> {
        let given = input.schema();
        let results = shared.steps.iter().map(|step| Arc::clone(&step.call.column));
        let fields: Fields = given.fields().iter().cloned().chain(results).collect();
        let metadata = given.metadata().clone();
        let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, metadata));
        let columns = given.fields().iter().enumerate().map(|(at, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
            (column, field.name().clone())
        });
        let kept = ProjectionMapping::try_new(columns, &given)?;
        let properties = PlanProperties::new(
            input.equivalence_properties().project(&kept, schema),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(EvaluateExec { input, shared, properties: Arc::new(properties), metrics })
    }
}

impl DisplayAs for EvaluateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: Vec<String> =
            self.shared.steps.iter().map(|step| step.call.to_string()).collect();
        write!(f, "EvaluateExec: {}", calls.join(", "))
    }
}

impl ExecutionPlan for EvaluateExec {
    fn name(&self) -> &str {
        "EvaluateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // The work is done elsewhere, and several groups of one partition are under way.
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(EvaluateExec::new(input, Arc::clone(&self.shared))?))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let schema = self.schema();
        let groups = Groups {
            input: self.input.execute(partition, Arc::clone(&context))?,
            shared: Arc::clone(&self.shared),
            ready: VecDeque::new(),
            waiting: Vec::new(),
            rows: 0,
            bytes: 0,
            is_over: false,
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (shared, to) = (Arc::clone(&self.shared), Arc::clone(&schema));
        let rows = futures::stream::try_unfold(groups, |mut groups| async move {
            Ok::<_, DataFusionError>(groups.next().await?.map(|group| (group, groups)))
        });
        let rows = rows
            .map_ok(move |group| {
                let (shared, to) = (Arc::clone(&shared), Arc::clone(&to));
                let pool = Arc::clone(context.memory_pool());
                async move { shared.evaluated(&group, to, &pool).await }
            })
            .try_buffered(UNDER_WAY)
            // The memory of a group is let go of when it is passed on.
            .map_ok(move |(batch, _held)| batch.record_output(&metrics));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// The rows of an input with the arguments of the calls beside them, in groups that are handed over as one.
struct Groups {
    input: SendableRecordBatchStream,
    shared: Arc<Shared>,
    ready: VecDeque<RecordBatch>,
    /// Rows that are not enough for a group yet.
    waiting: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    is_over: bool,
}

impl Groups {
    async fn next(&mut self) -> PlanResult<Option<RecordBatch>> {
        loop {
            if let Some(group) = self.ready.pop_front() {
                return Ok(Some(group));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.input.next().await.transpose()? {
                Some(batch) => {
                    let given = batch.num_columns();
                    self.cut(self.shared.with_arguments(&batch)?, given)?;
                }
                None => {
                    self.is_over = true;
                    self.close_group()?;
                }
            }
        }
    }

    fn cut(&mut self, batch: RecordBatch, given: usize) -> PlanResult<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let bytes = bytes_of(batch.columns().get(given..).unwrap_or_default());
        if rows > TASK_ROWS {
            self.cut(batch.slice(0, TASK_ROWS), given)?;
            return self.cut(batch.slice(TASK_ROWS, rows - TASK_ROWS), given);
        }
        if bytes > TASK_BYTES && rows > 1 {
            self.cut(batch.slice(0, rows / 2), given)?;
            return self.cut(batch.slice(rows / 2, rows - rows / 2), given);
        }
        if self.rows + rows > TASK_ROWS || self.bytes + bytes > TASK_BYTES {
            self.close_group()?;
        }
        self.waiting.push(batch);
        (self.rows, self.bytes) = (self.rows + rows, self.bytes + bytes);
        if self.rows == TASK_ROWS || self.bytes >= TASK_BYTES {
            self.close_group()?;
        }
        Ok(())
    }

    fn close_group(&mut self) -> PlanResult<()> {
        let parts = std::mem::take(&mut self.waiting);
        (self.rows, self.bytes) = (0, 0);
        match parts.as_slice() {
            [] => {}
            [only] => self.ready.push_back(only.clone()),
            [first, ..] => self.ready.push_back(concat_batches(first.schema_ref(), &parts)?),
        }
        Ok(())
    }
}

impl Shared {
    /// The rows with the arguments of all calls behind their own columns.
    fn with_arguments(&self, batch: &RecordBatch) -> PlanResult<RecordBatch> {
        let mut fields: Vec<Arc<Field>> = batch.schema_ref().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        for step in &self.steps {
            for arg in &step.args {
                let values = arg.evaluate(batch)?.into_array(batch.num_rows())?;
                fields.push(Arc::new(Field::new("argument", values.data_type().clone(), true)));
                columns.push(values);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// A group with the results of all calls in the place of their arguments, and the memory that it takes.
    async fn evaluated(
        &self,
        group: &RecordBatch,
        schema: SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> PlanResult<(RecordBatch, MemoryReservation)> {
        let given = schema.fields().len() - self.steps.len();
        let arguments = group.columns().get(given..).unwrap_or_default();
        let bytes = bytes_of(arguments);
        let closed = |_| DataFusionError::Internal("the room of calls was closed".to_owned());
        let _group = self.room.groups.acquire().await.map_err(closed)?;
        let units = bytes.clamp(1, UNDER_WAY_BYTES).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let _bytes = self.room.bytes.acquire_many(units).await.map_err(closed)?;
        let held = MemoryConsumer::new("calls of models and functions").register(pool);
        held.try_grow(bytes)?;
        let mut from = given;
        let calls = self.steps.iter().map(|step| {
            let columns = group.columns().get(from..from + step.args.len()).unwrap_or_default();
            from += step.args.len();
            self.made(step, columns.to_vec(), group.num_rows())
        });
        let results = futures::future::try_join_all(calls).await.map_err(|error| carry(&error))?;
        held.try_resize(bytes_of(&results))?;
        let columns = group.columns().get(..given).unwrap_or_default();
        let columns = columns.iter().cloned().chain(results).collect();
        Ok((RecordBatch::try_new(schema, columns)?, held))
    }

    async fn made(&self, step: &Step, columns: Vec<ArrayRef>, rows: usize) -> Result<ArrayRef> {
        let call = &step.call;
        let begin = || async {
            let constants = constant_row(&call.callee, &call.constants)?;
            self.callees.begin(&call.callee, constants).await
        };
        let running = step.running.get_or_try_init(begin).await?;
        let fields = call
            .callee
            .parameters()
            .into_iter()
            .zip(&columns)
            .map(|(wanted, column)| Field::new(wanted.name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arguments = RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|error| Error::internal("arguments of a call").with_source(error))?;
        evaluate(running.as_ref(), &call.callee, &arguments).await
    }
}

/// Bytes that arrays hold, of which they may show a part.
fn bytes_of(arrays: &[ArrayRef]) -> usize {
    arrays.iter().map(|array| array.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}
