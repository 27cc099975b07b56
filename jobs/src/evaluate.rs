//! Evaluations: rows that somebody waits for, such as those of a statement in SQL, computed by attached
//! workers.
//!
//! ```text
//!   evaluate(rows) ─► task of a job of its own ─► worker reads it ─► puts results ─► done ─► values
//!                     rows and results in memory, no ledger
//! ```
//!
//! To the scheduler and to workers an evaluation is a job like any other, so leases, lost workers, further
//! tries and fairness are theirs. It has no record: it ends with whoever asked, and with the server.
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
use crate::scheduler::{Event, LOST_TOO_OFTEN, ModelKey};
use crate::work::{ResultColumn, Work};

/// Tasks of all evaluations that are under way at once.
pub(crate) const UNDER_WAY_MAX: usize = 256;
/// Rows of one task at most.
const ROWS_MAX: usize = 1_024;
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
    task: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.tasks().open.remove(&self.task);
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
        self.step(Event::AddJob { job: id, model: need });
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
        if batch.num_rows() > ROWS_MAX {
            return Err(Error::internal("a task of an evaluation has too many rows"));
        }
        let permit = Arc::clone(&self.jobs.evaluating_tasks).acquire_owned().await;
        let _permit = permit.map_err(|_| Error::internal("evaluations were closed"))?;
        let (answer, mut answered) = oneshot::channel();
        let rows = self.shared.rows(batch)?;
        let number = rows.num_rows() as u64;
        let task = self.shared.tasks().add(Open { rows, answer, staged: None });
        metrics::gauge!("lakebed_evaluations_waiting").increment(1.0);
        let waiting = Waiting { shared: &self.shared, task };
        let group = u32::try_from(task).unwrap_or(u32::MAX);
        self.jobs.step(Event::AddTasks { job: self.shared.id.clone(), tasks: vec![(task, group)] });
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

    /// Rows as workers read them.
    fn rows(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut fields = vec![Field::new("_rowid", DataType::UInt64, false)];
        let ids = UInt64Array::from_iter_values(0..batch.num_rows() as u64);
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
    pub(crate) fn assignment(&self, task: u64) -> Option<(v1::RowsTask, &Work)> {
        let rows = self.tasks().open.get(&task)?.rows.num_rows() as u64;
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

    /// The rows of a task.
    ///
    /// # Errors
    /// `Conflict` when nobody waits for it any more.
    pub(crate) fn read(&self, attempt: &AttemptId) -> Result<(SchemaRef, BatchStream)> {
        let rows = self.tasks().open.get(&attempt.task).map(|open| open.rows.clone());
        let rows = rows.ok_or_else(|| over(attempt))?;
        Ok((rows.schema(), futures::stream::iter([Ok(rows)]).boxed()))
    }

    /// Takes in the results of an attempt; returns how many rows they are.
    ///
    /// # Errors
    /// `Conflict` when nobody waits for it any more, `InvalidArgument` for results that do not fit.
    pub(crate) async fn stage(&self, attempt: &AttemptId, batches: BatchStream) -> Result<u64> {
        let rows = self.tasks().open.get(&attempt.task).map(|open| open.rows.num_rows());
        let rows = u32::try_from(rows.ok_or_else(|| over(attempt))?).unwrap_or(u32::MAX);
        let ids: TaskRows = (0..rows).map(|row| (row, u64::from(row))).collect();
        let columns = std::slice::from_ref(&self.results);
        let results = parts::collect(&ids, columns, batches, RESULT_BYTES_MAX).await?;
        let mut tasks = self.tasks();
        let open = tasks.open.get_mut(&attempt.task).ok_or_else(|| over(attempt))?;
        open.staged = Some((attempt.attempt, results));
        Ok(u64::from(rows))
    }

    /// Gives whoever waits the results of an attempt that is done.
    pub(crate) fn done(&self, attempt: &AttemptId) {
        let Some(open) = self.tasks().open.remove(&attempt.task) else { return };
        let results = match open.staged {
            Some((number, results)) if number == attempt.attempt => Ok(results.into_batch()),
            _ => Err(Error::internal("a task is done and has no results")),
        };
        // Whoever asked may be gone.
        let _ = open.answer.send(results);
    }

    /// Tells whoever waits that a task was given up.
    pub(crate) fn gave_up(&self, attempt: &AttemptId, error: &str) {
        let Some(open) = self.tasks().open.remove(&attempt.task) else { return };
        let kind = match error.starts_with(LOST_TOO_OFTEN) {
            true => ErrorKind::Unavailable,
            false => ErrorKind::InvalidArgument,
        };
        let _ = open.answer.send(Err(Error::new(kind, format!("{}: {error}", self.work))));
    }
}

impl Tasks {
    fn add(&mut self, open: Open) -> u64 {
        let task = self.next;
        self.next += 1;
        self.open.insert(task, open);
        task
    }
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
