//! Evaluations: rows that somebody waits for, such as those of a statement in SQL, computed by attached
//! workers.
//!
//! ```text
//!   evaluate(rows) ─► task of a job of its own ─► worker reads it ─► puts results ─► done ─► values
//!                     rows and results in memory, no ledger
//! ```
//!
//! To the scheduler and to workers an evaluation is a job like any other, so leases, lost workers, further
//! tries and fairness are theirs. To the scheduler each batch is one row, so it is never cut: an error ends
//! the statement, whichever row it is of. It has no record: it ends with whoever asked, and with the server.
//!
//! What always holds: dropping the evaluation takes its tasks back; an answer has a value or null for each
//! row that was asked for, in their order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt as _;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::worker::v1;
use lakebed_storage::BatchStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ids::{AttemptId, JobId};
use crate::parts::{self, Results, TaskRows};
use crate::runtime::ColumnJobs;
use crate::scheduler::{
    Event, GroupRows, LOST_TOO_OFTEN, Labels, ModelKey, Resources, TaskSize, Terms,
};
use crate::work::{ResultColumn, Work};

/// Tasks of all evaluations that are under way at once.
pub(crate) const UNDER_WAY_MAX: usize = 256;
/// Rows of one task at most.
const ROWS_MAX: u32 = 1_024;
/// Bytes of the results of one task, which stay in memory.
const RESULT_BYTES_MAX: usize = 64 << 20;
/// How often it is looked whether there is still a worker.
const LOOK: Duration = Duration::from_millis(500);
/// How long there may be none: one that is restarted comes back.
const NOBODY_MAX: Duration = Duration::from_secs(5);

/// Rows that attached workers compute while somebody waits. Dropping it calls them off.
pub struct Evaluation {
    jobs: Arc<ColumnJobs>,
    shared: Arc<Evaluating>,
}

/// What a server knows of an evaluation.
pub(crate) struct Evaluating {
    id: JobId,
    work: Work,
    /// What a worker has to have; with the digest of the model once one was chosen.
    need: Mutex<ModelKey>,
    results: ResultColumn,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    /// By the number of the batch, which is the row that the scheduler knows.
    open: HashMap<u64, Open>,
}

/// A task that somebody waits for.
struct Open {
    /// `_rowid`, and a column for each parameter.
    rows: RecordBatch,
    answer: oneshot::Sender<Result<RecordBatch>>,
    /// The results of an attempt that did not say yet that it is done.
    staged: Option<(u64, Results)>,
}

/// Forgets a task when nobody waits for it any more.
struct Waiting<'a> {
    shared: &'a Evaluating,
    batch: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.tasks().open.remove(&self.batch);
        metrics::gauge!("lakebed_evaluations_waiting").decrement(1.0);
    }
}

impl Drop for Evaluation {
    fn drop(&mut self) {
        self.jobs.evaluations().remove(&self.shared.id);
        self.jobs.step(Event::RemoveJob(self.shared.id.clone()));
        self.jobs.wake();
    }
}

impl std::fmt::Debug for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluation").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl ColumnJobs {
    /// Begins an evaluation of `work`, whose inputs are named as its parameters and whose one output is of
    /// type `result`.
    ///
    /// # Errors
    /// `Unavailable` naming the worker that is needed where none is attached, or when another server runs the
    /// jobs.
    pub fn evaluation(self: &Arc<Self>, work: Work, result: DataType) -> Result<Evaluation> {
        self.term()?;
        let need = work.need();
        if !self.is_at_hand(&need) {
            return Err(nobody(&work));
        }
        let output = work.output_names().first().cloned().unwrap_or_default();
        let schema = Schema::new(vec![Field::new(output, result, true)]);
        let results = work.results(&schema)?.into_iter().next();
        let results = results.ok_or_else(|| Error::internal("a work without a result"))?;
        let id = JobId::new(&format!("evaluation-{}", uuid::Uuid::now_v7()));
        let tasks = Mutex::default();
        let wanted = Mutex::new(need.clone());
        let shared = Arc::new(Evaluating { id: id.clone(), work, need: wanted, results, tasks });
        self.evaluations().insert(id.clone(), Arc::clone(&shared));
        let terms = Terms {
            model: need,
            priority: 0,
            workers_max: None,
            labels: Labels::new(),
            resources: Resources::default(),
            size: TaskSize::Fixed(1),
        };
        self.step(Event::AddJob { job: id, terms });
        Ok(Evaluation { jobs: Arc::clone(self), shared })
    }

    pub(crate) fn evaluations(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Evaluating>>> {
        self.evaluations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An evaluation that is under way.
    pub(crate) fn evaluating(&self, job: &JobId) -> Option<Arc<Evaluating>> {
        self.evaluations().get(job).cloned()
    }

    /// Whether an attempt is one of an evaluation, whose rows are in memory.
    pub fn is_evaluation(&self, attempt: &AttemptId) -> bool {
        self.evaluating(&attempt.job).is_some()
    }

    /// Whether a worker that offers something was heard of within its lease.
    fn is_at_hand(&self, need: &ModelKey) -> bool {
        let since_ms = self.clock.now_ms().saturating_sub(self.limits.lease_ms);
        let workers = self.workers();
        let mut heard = workers.values().filter(|worker| worker.seen_ms >= since_ms);
        heard.any(|worker| worker.offers.iter().any(|offered| need.is_met_by(offered)))
    }
}

impl Evaluation {
    /// The values of some rows: `batch` has a column for each parameter, in the order of the work.
    ///
    /// # Errors
    /// `InvalidArgument` with the error of the first row that has one, or what is wrong with the function;
    /// `Unavailable` when the last worker that can run it went away.
    pub async fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        if batch.num_rows() > ROWS_MAX as usize {
            return Err(Error::internal("a task of an evaluation has too many rows"));
        }
        let permit = Arc::clone(&self.jobs.evaluating_tasks).acquire_owned().await;
        let _permit = permit.map_err(|_| Error::internal("evaluations were closed"))?;
        let (answer, mut answered) = oneshot::channel();
        let first = self.shared.tasks().next();
        let rows = self.shared.rows(first, batch)?;
        let number = rows.num_rows() as u64;
        self.shared.tasks().open.insert(first, Open { rows, answer, staged: None });
        metrics::gauge!("lakebed_evaluations_waiting").increment(1.0);
        let waiting = Waiting { shared: &self.shared, batch: first };
        let group = u32::try_from(first).unwrap_or(u32::MAX);
        let groups = vec![GroupRows { group, first, open: vec![(first, first + 1)] }];
        self.jobs.step(Event::AddRows { job: self.shared.id.clone(), groups });
        self.jobs.wake();
        let mut offered = Instant::now();
        let outcome = loop {
            tokio::select! {
                outcome = &mut answered => break outcome,
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.jobs.is_at_hand(&self.shared.need()) {
                offered = Instant::now();
            } else if offered.elapsed() >= NOBODY_MAX {
                return Err(nobody(&self.shared.work));
            }
        };
        drop(waiting);
        let part = outcome.map_err(|_| {
            Error::new(ErrorKind::Unavailable, "another server runs the jobs from now on")
        })??;
        metrics::counter!("lakebed_evaluated_rows_total").increment(number);
        if let Some((_, _, error)) = parts::errors_in(&part)?.into_iter().next() {
            let kind = error.error_type.map(|kind| format!("{kind}: ")).unwrap_or_default();
            return Err(Error::invalid(format!("{}: {kind}{}", self.shared.work, error.error)));
        }
        let values = parts::values_in(&part, &self.shared.work.output_names())?;
        Ok(Arc::clone(values.column(0)))
    }
}

impl Evaluating {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn need(&self) -> ModelKey {
        self.need.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of its rows are computed by this model from here on.
    pub(crate) fn choose(&self, model: ModelKey) {
        *self.need.lock().unwrap_or_else(PoisonError::into_inner) = model;
    }

    /// The rows of a batch as workers read them.
    fn rows(&self, number: u64, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut fields = vec![Field::new("_rowid", DataType::UInt64, false)];
        let rows = ids_of(number, batch.num_rows());
        let ids = UInt64Array::from_iter_values(rows.into_iter().map(|(_, id)| id));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ids)];
        let inputs = self.work.inputs();
        if inputs.len() != batch.num_columns() {
            return Err(Error::internal("an evaluation has other columns than its work"));
        }
        for (input, column) in inputs.iter().zip(batch.columns()) {
            fields.push(Field::new(&input.parameter, column.data_type().clone(), true));
            columns.push(Arc::clone(column));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Error::internal("rows of an evaluation").with_source(error))
    }

    /// What a worker is told of a task.
    pub(crate) fn assignment(&self, attempt: &AttemptId) -> Option<(v1::RowsTask, &Work)> {
        let rows = self.tasks().open.get(&attempt.range().first)?.rows.num_rows() as u64;
        let task = v1::RowsTask {
            rows,
            database: String::new(),
            table: "a query".to_owned(),
            input: self.work.input_names().join(","),
            output: self.work.output_names().join(","),
        };
        Some((task, &self.work))
    }

    /// Lets go of all tasks: another server runs the jobs.
    pub(crate) fn abandon(&self) {
        self.tasks().open.clear();
    }

    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// The rows of tasks, of which there is one at least.
    ///
    /// # Errors
    /// `Conflict` when nobody waits for one any more.
    pub(crate) fn read(&self, attempts: &[AttemptId]) -> Result<(SchemaRef, BatchStream)> {
        let tasks = self.tasks();
        let rows_of = |attempt: &AttemptId| {
            let open = tasks.open.get(&attempt.range().first);
            open.map(|open| open.rows.clone()).ok_or_else(|| over(attempt))
        };
        let batches = attempts.iter().map(rows_of).collect::<Result<Vec<RecordBatch>>>()?;
        let schema = batches.first().map(RecordBatch::schema);
        let schema = schema.ok_or_else(|| Error::invalid("no task is named"))?;
        Ok((schema, futures::stream::iter(batches.into_iter().map(Ok)).boxed()))
    }

    /// Takes in the results of tasks that came in one stream.
    ///
    /// # Errors
    /// Those of [`Evaluating::stage`]; what was taken in before is kept.
    pub(crate) async fn stage_all(
        &self,
        attempts: &[&AttemptId],
        batches: Vec<RecordBatch>,
    ) -> Result<()> {
        for attempt in attempts {
            let rows = self.rows_of(attempt)?;
            let own = parts::only(&rows, batches.clone())?;
            self.stage(attempt, futures::stream::iter(own.into_iter().map(Ok)).boxed()).await?;
        }
        Ok(())
    }

    fn rows_of(&self, attempt: &AttemptId) -> Result<TaskRows> {
        let batch = attempt.range().first;
        let rows = self.tasks().open.get(&batch).map(|open| open.rows.num_rows());
        Ok(ids_of(batch, rows.ok_or_else(|| over(attempt))?))
    }

    /// Takes in the results of an attempt; returns how many rows they are.
    ///
    /// # Errors
    /// `Conflict` when nobody waits for it any more, `InvalidArgument` for results that do not fit.
    pub(crate) async fn stage(&self, attempt: &AttemptId, batches: BatchStream) -> Result<u64> {
        let rows = self.rows_of(attempt)?;
        let columns = std::slice::from_ref(&self.results);
        let results = parts::collect(&rows, columns, batches, RESULT_BYTES_MAX).await?;
        let mut tasks = self.tasks();
        let open = tasks.open.get_mut(&attempt.range().first).ok_or_else(|| over(attempt))?;
        open.staged = Some((attempt.attempt, results));
        Ok(rows.len() as u64)
    }

    /// Gives whoever waits the results of an attempt that is done.
    pub(crate) fn done(&self, attempt: &AttemptId) {
        let Some(open) = self.tasks().open.remove(&attempt.range().first) else { return };
        let results = match open.staged {
            Some((number, results)) if number == attempt.attempt => Ok(results.into_batch()),
            _ => Err(Error::internal("a task is done and has no results")),
        };
        // Whoever asked may be gone.
        let _ = open.answer.send(results);
    }

    /// Tells whoever waits that a task was given up.
    pub(crate) fn gave_up(&self, attempt: &AttemptId, error: &str) {
        let Some(open) = self.tasks().open.remove(&attempt.range().first) else { return };
        let kind = match error.starts_with(LOST_TOO_OFTEN) {
            true => ErrorKind::Unavailable,
            false => ErrorKind::InvalidArgument,
        };
        let _ = open.answer.send(Err(Error::new(kind, format!("{}: {error}", self.work))));
    }
}

impl Tasks {
    fn next(&mut self) -> u64 {
        let batch = self.next;
        self.next += 1;
        batch
    }
}

/// The row ids of a batch: no two of an evaluation are alike, because the results of several batches may
/// come in one stream.
fn ids_of(batch: u64, rows: usize) -> TaskRows {
    let first = batch * u64::from(ROWS_MAX);
    (0..ROWS_MAX).take(rows).map(|row| (row, first + u64::from(row))).collect()
}

fn over(attempt: &AttemptId) -> Error {
    Error::new(ErrorKind::Conflict, format!("{attempt}: nobody waits for it any more"))
}

fn nobody(work: &Work) -> Error {
    let needed = match work {
        Work::Model(work) => format!("a worker with the model {}", work.model),
        Work::Function(work) => work.interpreter.to_string(),
    };
    let message = format!("{work} needs {needed}, and none is attached; start `lakebed-worker`");
    Error::new(ErrorKind::Unavailable, message)
}
