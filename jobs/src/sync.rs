//! The calls of workers: Sync, the rows of tasks, and their results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::worker::v1;
use lakebed_storage::{BatchStream, Projection, ScanSpec};
use serde::Serialize;

use crate::ids::{AttemptId, JobId};
use crate::ledger::Inline;
use crate::models::{DIMENSIONS_MAX, ModelInfo, ModelInput};
use crate::parts;
use crate::query::{Candidate, QueryInput, Question};
use crate::registered::{RegisteredModel, runner_key};
use crate::runtime::ColumnJobs;
use crate::scheduler::{Action, Event, Labels, ModelKey, Resources, WorkerSync};
use crate::work::{FunctionWork, Interpreter, Work};

const TEXT_BYTES_MAX: usize = 256;
const ERROR_BYTES_MAX: usize = 4_000;
const ATTEMPTS_MAX: usize = 10_000;
const MODELS_MAX: usize = 256;
const INTERPRETERS_MAX: usize = 16;
const RUNNERS_MAX: usize = 16;
const LABELS_MAX: usize = 64;
const GPUS_MAX: usize = 16;
const SLOTS_MAX: u32 = 1_024;
const WORKERS_MAX: usize = 10_000;
/// A call waits no longer than this, whatever the worker asks for: its leases run meanwhile, and proxies
/// cut long calls.
const WAIT_MS_MAX: u32 = 10_000;
/// Over how long it is seen how much of its time a worker computes.
const LOOK_MS: i64 = 5_000;
/// Bytes of results that come with a report: of a task, and of all.
const INLINE_TASK_BYTES_MAX: usize = 64 << 10;
const INLINE_BYTES_MAX: usize = 4 << 20;
/// Bytes of the results of one task that its next ones are made for.
const RESULT_BYTES_WANTED: u64 = 16 << 20;
/// A worker that is silent for this long is not listed any more.
const LISTED_MS: i64 = 60_000;

/// A worker as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    /// Its name.
    pub worker: String,
    /// Its process.
    pub instance: String,
    /// Where it runs.
    pub device: String,
    /// Tasks that it can hold.
    pub slots: u32,
    /// Tasks that it holds.
    pub running: usize,
    /// When it was first and last heard of, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// The same, last.
    pub seen_ms: i64,
    /// What it can run.
    #[serde(skip)]
    pub models: Vec<ModelInfo>,
    /// Their names.
    #[serde(rename = "models")]
    pub model_names: Vec<String>,
    /// The versions of Python that it runs functions with.
    pub pythons: Vec<String>,
    /// All that jobs may ask it for.
    #[serde(skip)]
    pub(crate) offers: Vec<ModelKey>,
    /// Where its time went: stage, busy milliseconds, rows.
    pub stages: Vec<(String, u64, u64)>,
    /// Its labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What it has.
    pub resources: Resources,
    /// How much of its time it computed lately, of 1.
    pub utilization: Option<f64>,
    /// Its GPUs, where they can be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuView>,
    /// When the time that it computes was last looked at, and how much that was, in milliseconds.
    #[serde(skip)]
    pub(crate) looked: (i64, u64),
}

/// A GPU of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuView {
    /// Its name.
    pub name: String,
    /// Its memory, in MiB.
    pub memory_mb: u64,
    /// How much of that is used.
    pub memory_used_mb: u64,
    /// How much of the time it was busy lately, in percent.
    pub busy_percent: u32,
}

impl WorkerView {
    /// Milliseconds that it computed since it started.
    fn computed_ms(&self) -> u64 {
        self.stages.iter().filter(|(stage, ..)| stage == "compute").map(|(_, ms, _)| ms).sum()
    }

    /// Goes on with what was seen of the same worker before.
    fn after(mut self, before: Option<&WorkerView>) -> WorkerView {
        let now = (self.seen_ms, self.computed_ms());
        self.looked = now;
        let Some(before) = before else { return self };
        self.since_ms = before.since_ms;
        let (since_ms, computed_ms) = before.looked;
        let passed_ms = now.0.saturating_sub(since_ms);
        if passed_ms < LOOK_MS {
            (self.looked, self.utilization) = (before.looked, before.utilization);
        } else {
            let share = now.1.saturating_sub(computed_ms) as f64 / passed_ms as f64;
            self.utilization = Some(share.min(1.0));
        }
        self
    }
}

/// A function that an attempt is to run.
#[derive(Debug, Clone)]
pub enum FunctionOf {
    /// One that is to be registered.
    Candidate(Arc<Candidate>),
    /// One that is registered, with the constants of its instances.
    Registered(Box<FunctionWork>),
}

impl ColumnJobs {
    /// The workers that were heard of lately, by name.
    pub fn list_workers(&self) -> Vec<WorkerView> {
        let now_ms = self.clock.now_ms();
        let mut workers: Vec<WorkerView> = self
            .workers()
            .values()
            .filter(|worker| worker.seen_ms.saturating_add(LISTED_MS) >= now_ms)
            .cloned()
            .collect();
        workers.sort_by(|a, b| (&a.worker, &a.instance).cmp(&(&b.worker, &b.instance)));
        workers
    }

    /// Whether a worker is attached that has an interpreter.
    pub fn is_attached(&self, interpreter: &Interpreter) -> bool {
        let key = interpreter.key();
        self.workers().values().any(|worker| worker.offers.iter().any(|it| key.is_met_by(it)))
    }

    pub(crate) fn forget_workers(&self) {
        let now_ms = self.clock.now_ms();
        self.workers().retain(|_, worker| worker.seen_ms.saturating_add(LISTED_MS) >= now_ms);
    }

    /// Takes a worker's report and says what it shall do.
    ///
    /// # Errors
    /// `InvalidArgument` for a report that breaks the protocol.
    pub async fn sync(self: &Arc<Self>, request: v1::SyncRequest) -> Result<v1::SyncResponse> {
        let (view, mut sync) = checked(&request, self.clock.now_ms())?;
        let term = self.term()?;
        self.take_inline(&request.results, &mut sync).await?;
        self.note_worker(view, sync.leaving)?;
        let half_a_lease = u32::try_from(self.limits.lease_ms / 2).unwrap_or(u32::MAX);
        let wait_ms = request.wait_ms.min(WAIT_MS_MAX).min(half_a_lease);
        let wait = Duration::from_millis(u64::from(wait_ms));
        let deadline = tokio::time::Instant::now() + wait;
        let waiting = Event::Wait {
            instance: sync.instance.clone(),
            slots: sync.slots,
            models: sync.models.clone(),
        };
        let is_leaving = sync.leaving;
        let mut event = Event::Sync(sync);
        loop {
            let mut changes = self.changes();
            let answer = self.step_for(event).await?;
            event = waiting.clone();
            let is_empty =
                answer.assign.is_empty() && answer.stop.is_empty() && answer.recorded.is_empty();
            if !is_empty || is_leaving || term.is_cancelled() {
                return Ok(answer);
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return Ok(answer),
                () = term.cancelled() => return Ok(answer),
                _ = changes.changed() => {}
            }
        }
    }

    /// One step, carried out to its end also when the caller goes away.
    async fn step_for(self: &Arc<Self>, event: Event) -> Result<v1::SyncResponse> {
        let jobs = Arc::clone(self);
        let told = tokio::spawn(async move {
            let actions = jobs.step(event);
            jobs.perform(actions).await
        });
        let told =
            told.await.map_err(|error| Error::internal("a report broke off").with_source(error))?;
        let lease_ms = u32::try_from(self.limits.lease_ms).unwrap_or(u32::MAX);
        let mut answer = v1::SyncResponse {
            lease_ms,
            sync_ms: lease_ms / 4,
            result_bytes_max: INLINE_TASK_BYTES_MAX as u32,
            ..v1::SyncResponse::default()
        };
        for action in told {
            match action {
                Action::Assign { attempt, model, .. } => {
                    answer.assign.extend(self.assignment(attempt, model));
                }
                Action::Stop { attempt, .. } => answer.stop.push(to_wire(attempt)),
                Action::Forget { attempt, .. } => answer.recorded.push(to_wire(attempt)),
                _ => {}
            }
        }
        Ok(answer)
    }

    fn assignment(&self, attempt: AttemptId, model: ModelKey) -> Option<v1::Assignment> {
        let mut function = None;
        let mut registered = None;
        let work = match self.question(&attempt.job) {
            Some(Question::Check(candidate)) => {
                let (name, digest) = (candidate.name.clone(), candidate.digest.clone());
                function = Some(v1::Function { name, digest });
                v1::assignment::Work::Check(v1::CheckTask {})
            }
            Some(Question::Embed { input, registered: by }) => {
                registered = by;
                let input = match input {
                    QueryInput::Text(text) => v1::query_task::Input::Text(text),
                    QueryInput::Picture(bytes) => v1::query_task::Input::Picture(bytes),
                };
                v1::assignment::Work::Query(v1::QueryTask { input: Some(input) })
            }
            None if self.is_evaluation(&attempt) => {
                let evaluating = self.evaluating(&attempt.job)?;
                let (task, work) = evaluating.assignment(&attempt)?;
                function = function_in(work);
                v1::assignment::Work::Rows(task)
            }
            None => {
                let run = self.find(&attempt.job)?;
                match &run.spec.work {
                    work @ Work::Function(_) => function = function_in(work),
                    Work::Model(work) => registered = work.registered.clone(),
                }
                v1::assignment::Work::Rows(v1::RowsTask {
                    rows: attempt.range().rows.into(),
                    database: run.database.to_string(),
                    table: run.table.clone(),
                    input: run.spec.work.input_names().join(","),
                    output: run.spec.work.output_names().join(","),
                })
            }
        };
        let is_registered = registered.is_some();
        let (model, digest) = match (&function, registered) {
            (Some(_), _) => (String::new(), String::new()),
            (None, Some(RegisteredModel { name, digest, .. })) => (name, digest),
            (None, None) => (model.name, model.digest.unwrap_or_default()),
        };
        let attempt = Some(to_wire(attempt));
        let (work, registered) = (Some(work), is_registered);
        Some(v1::Assignment { attempt, model, digest, work, function, registered })
    }

    fn note_worker(&self, view: WorkerView, is_leaving: bool) -> Result<()> {
        let mut workers = self.workers();
        if is_leaving {
            workers.remove(&view.instance);
            return Ok(());
        }
        if !workers.contains_key(&view.instance) && workers.len() >= WORKERS_MAX {
            let message = format!("{WORKERS_MAX} workers are attached");
            return Err(Error::new(ErrorKind::Busy, message).with_retry_after_ms(10_000));
        }
        let instance = view.instance.clone();
        let view = view.after(workers.get(&instance));
        workers.insert(instance, view);
        Ok(())
    }

    pub(crate) fn held(&self, attempt: &AttemptId) -> Result<()> {
        match self.scheduler().may_stage(attempt) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Conflict,
                format!("{attempt} is not held: it ended or was given to another worker"),
            )),
        }
    }

    /// The function that an attempt is to run.
    ///
    /// # Errors
    /// `Conflict` when the attempt does not hold its task, `InvalidArgument` when it runs a model.
    pub fn function_of(&self, attempt: &v1::AttemptId) -> Result<FunctionOf> {
        let attempt = from_wire(Some(attempt))?;
        if let Some(Question::Check(candidate)) = self.question(&attempt.job) {
            return Ok(FunctionOf::Candidate(candidate));
        }
        self.held(&attempt)?;
        let work = match self.evaluating(&attempt.job) {
            Some(evaluating) => evaluating.work().clone(),
            None => {
                let run = self.find(&attempt.job);
                run.ok_or_else(|| Error::internal("a task without job"))?.spec.work.clone()
            }
        };
        match work {
            Work::Function(work) => Ok(FunctionOf::Registered(Box::new(work))),
            Work::Model(_) => Err(Error::invalid(format!("{attempt} runs no function"))),
        }
    }

    /// Takes the results that came with a report: what they are of can be recorded then. Those that do not
    /// fit their tasks make these fail.
    async fn take_inline(&self, results: &[v1::Results], sync: &mut WorkerSync) -> Result<()> {
        let bytes: usize = results.iter().map(|it| it.stream.len()).sum();
        if bytes > INLINE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the results in a report have {bytes} bytes; {INLINE_BYTES_MAX} are allowed"
            )));
        }
        for block in results {
            let attempts = block.attempts.iter().map(|attempt| from_wire(Some(attempt)));
            let attempts = attempts.collect::<Result<Vec<AttemptId>>>()?;
            if block.stream.len() > INLINE_TASK_BYTES_MAX.saturating_mul(attempts.len()) {
                return Err(Error::invalid(format!(
                    "the results of a task in a report have more than {INLINE_TASK_BYTES_MAX} bytes"
                )));
            }
            match self.take_block(&attempts, block.stream.clone()).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                    sync.done.retain(|(attempt, _)| !attempts.contains(attempt));
                    let text = error.message().to_owned();
                    let failed = attempts.into_iter().map(|attempt| (attempt, text.clone(), true));
                    sync.failed.extend(failed);
                }
                // Somebody else's, or of a job that is gone: the answer says so.
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take_block(&self, attempts: &[AttemptId], stream: Bytes) -> Result<()> {
        let mut attempts: Vec<&AttemptId> = attempts.iter().collect();
        attempts.sort_by_key(|attempt| attempt.task);
        // What was recorded meanwhile, or given to another, stays out; its rows may be in the stream.
        let (held, lost): (Vec<&AttemptId>, Vec<&AttemptId>) = {
            let scheduler = self.scheduler();
            attempts.into_iter().partition(|attempt| scheduler.may_stage(attempt))
        };
        let Some(first) = held.first() else { return Ok(()) };
        if let Some(evaluating) = self.evaluating(&first.job) {
            evaluating.stage_all(&held, parts::decode(stream)?).await?;
            for attempt in held {
                self.step(Event::Staged(attempt.clone()));
            }
            return Ok(());
        }
        let run = self.find(&first.job).ok_or_else(|| Error::not_found("the job is gone"))?;
        if held.iter().chain(&lost).any(|attempt| attempt.job != first.job) {
            return Err(Error::invalid("results in a report are of several jobs"));
        }
        let pass = run.pass()?;
        let mut rows = Vec::new();
        for attempt in &held {
            rows.extend(pass.rows_of(attempt.range()).await?);
        }
        let mut batches = parts::decode(stream)?;
        if !lost.is_empty() {
            batches = parts::only(&rows, batches)?;
        }
        let columns = run.spec.work.results(&pass.snapshot.written_schema())?;
        let batches = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
        let results = parts::collect(&rows, &columns, batches, parts::RESULT_BYTES_MAX).await?;
        let mut from = 0;
        for attempt in held {
            let range = attempt.range();
            let batch = results.batch.slice(from, range.rows as usize);
            from += range.rows as usize;
            let errors = parts::errors_count(&batch);
            // Another report may have been quicker.
            if self.held(attempt).is_err() {
                continue;
            }
            let group = pass.fragment_of(range)?.group;
            let inline = Inline { range, group, batch, errors };
            run.state().inline.insert((attempt.task, attempt.attempt), inline);
            self.step(Event::Staged(attempt.clone()));
        }
        Ok(())
    }

    /// The rows of tasks of one job: `_rowid`, and the columns that are read under the names that the
    /// worker knows.
    ///
    /// # Errors
    /// `Conflict` when an attempt does not hold its task, `InvalidArgument` for none or too many; those of
    /// reading.
    pub async fn read_tasks(&self, attempts: &[AttemptId]) -> Result<(SchemaRef, BatchStream)> {
        let first = attempts.first().ok_or_else(|| Error::invalid("no task is named"))?;
        if attempts.len() > ATTEMPTS_MAX {
            return Err(Error::invalid(format!("at most {ATTEMPTS_MAX} tasks are read at once")));
        }
        for attempt in attempts {
            self.held(attempt)?;
            if attempt.job != first.job {
                return Err(Error::invalid("the tasks that are read are of several jobs"));
            }
        }
        if let Some(evaluating) = self.evaluating(&first.job) {
            return evaluating.read(attempts);
        }
        let run = self.find(&first.job).ok_or_else(|| Error::internal("a task without job"))?;
        let pass = run.pass()?;
        let mut rows = Vec::new();
        for attempt in attempts {
            rows.extend(pass.rows_of(attempt.range()).await?);
        }
        let ids: Vec<u64> = rows.iter().map(|(_, id)| *id).collect();
        let inputs = run.spec.work.inputs();
        let mut names = run.spec.work.input_names();
        names.sort_unstable();
        names.dedup();
        let spec = ScanSpec {
            projection: Projection::Names(names),
            row_ids: Some(ids.clone()),
            blob_bytes: true,
            ..ScanSpec::default()
        };
        let (stored, batches) = pass.snapshot.scan(&spec).await?;
        let mut fields = vec![Field::new("_rowid", DataType::UInt64, false)];
        let mut from = Vec::with_capacity(inputs.len());
        for input in &inputs {
            let (at, field) = stored
                .column_with_name(&input.column)
                .ok_or_else(|| Error::internal("a scan without a column that was asked for"))?;
            fields.push(Field::new(&input.parameter, field.data_type().clone(), true));
            from.push(at);
        }
        let schema = Arc::new(Schema::new(fields));
        let shown = Arc::clone(&schema);
        let mut next = 0;
        let batches = batches.map(move |batch| {
            let batch = batch?;
            let of_batch = ids.get(next..next + batch.num_rows());
            let of_batch = of_batch.ok_or_else(|| Error::internal("more rows than row ids"))?;
            next += batch.num_rows();
            let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(of_batch.to_vec()))];
            columns.extend(from.iter().map(|at| Arc::clone(batch.column(*at))));
            RecordBatch::try_new(Arc::clone(&shown), columns)
                .map_err(|error| Error::internal("rows of a task").with_source(error))
        });
        Ok((schema, batches.boxed()))
    }

    /// Takes the results of an attempt; returns how many rows they are. They are durable then, and count
    /// once the worker names the attempt as done.
    ///
    /// # Errors
    /// `Conflict` when the attempt does not hold its task, `InvalidArgument` for results that do not fit
    /// it; nothing is kept then.
    pub async fn put_results(&self, attempt: &AttemptId, batches: BatchStream) -> Result<u64> {
        self.held(attempt)?;
        if let Some(evaluating) = self.evaluating(&attempt.job) {
            let rows = evaluating.stage(attempt, batches).await?;
            self.step(Event::Staged(attempt.clone()));
            return Ok(rows);
        }
        let run = self.find(&attempt.job).ok_or_else(|| Error::internal("a task without job"))?;
        let pass = run.pass()?;
        let rows = pass.rows_of(attempt.range()).await?;
        let columns = run.spec.work.results(&pass.snapshot.written_schema())?;
        let results = parts::collect(&rows, &columns, batches, parts::RESULT_BYTES_MAX).await?;
        parts::store(&self.system, attempt, &results).await?;
        // It may have lost its task meanwhile; the part goes with the others then.
        self.held(attempt)?;
        run.state().staged.insert((attempt.task, attempt.attempt), results.errors);
        self.step(Event::Staged(attempt.clone()));
        let row_bytes = (parts::bytes_of(&results.batch) / rows.len().max(1)).max(1) as u64;
        let bound = u32::try_from(RESULT_BYTES_WANTED / row_bytes).unwrap_or(u32::MAX);
        self.step(Event::BoundRows(attempt.job.clone(), bound));
        Ok(rows.len() as u64)
    }
}

fn function_in(work: &Work) -> Option<v1::Function> {
    match work {
        Work::Function(work) => {
            Some(v1::Function { name: work.function.to_string(), digest: work.digest() })
        }
        Work::Model(_) => None,
    }
}

fn to_wire(attempt: AttemptId) -> v1::AttemptId {
    v1::AttemptId { job_id: attempt.job.to_string(), task: attempt.task, attempt: attempt.attempt }
}

pub(crate) fn from_wire(attempt: Option<&v1::AttemptId>) -> Result<AttemptId> {
    let attempt = attempt.ok_or_else(|| Error::invalid("an attempt is missing"))?;
    text("job_id", &attempt.job_id)?;
    Ok(AttemptId { job: JobId::new(&attempt.job_id), task: attempt.task, attempt: attempt.attempt })
}

fn text<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    match value.len() {
        1..=TEXT_BYTES_MAX => Ok(value),
        bytes => Err(Error::invalid(format!(
            "field `{field}` has {bytes} bytes; 1 to {TEXT_BYTES_MAX} are allowed"
        ))),
    }
}

/// What a report says, if it keeps to the protocol.
fn checked(request: &v1::SyncRequest, now_ms: i64) -> Result<(WorkerView, WorkerSync)> {
    let attempts = request.running.len() + request.done.len() + request.failed.len();
    if attempts > ATTEMPTS_MAX || request.models.len() > MODELS_MAX {
        return Err(Error::invalid(format!(
            "a report names at most {ATTEMPTS_MAX} attempts and {MODELS_MAX} models"
        )));
    }
    let mut models = Vec::with_capacity(request.models.len());
    for model in &request.models {
        let input = match v1::Input::try_from(model.input) {
            Ok(v1::Input::Text) => ModelInput::Text,
            Ok(v1::Input::Picture) => ModelInput::Picture,
            _ => return Err(Error::invalid(format!("model `{}` reads nothing", model.name))),
        };
        if model.dimensions == 0 || model.dimensions > DIMENSIONS_MAX {
            return Err(Error::invalid(format!(
                "model `{}` has {} dimensions; 1 to {DIMENSIONS_MAX} are allowed",
                model.name, model.dimensions
            )));
        }
        models.push(ModelInfo {
            name: text("model", &model.name)?.to_owned(),
            digest: Some(text("digest", &model.digest)?.to_owned()),
            dimensions: model.dimensions,
            input,
            workers: 0,
        });
    }
    let mut done = Vec::with_capacity(request.done.len());
    for end in &request.done {
        if end.vector.len() > DIMENSIONS_MAX as usize {
            return Err(Error::invalid("a vector is too long"));
        }
        done.push((from_wire(end.attempt.as_ref())?, end.vector.clone()));
    }
    let mut took_ms = BTreeMap::new();
    for end in request.done.iter().filter(|end| end.took_ms > 0) {
        took_ms.insert(from_wire(end.attempt.as_ref())?, end.took_ms);
    }
    let mut failed = Vec::with_capacity(request.failed.len());
    for end in &request.failed {
        let error = &end.error[..end.error.floor_char_boundary(ERROR_BYTES_MAX)];
        failed.push((from_wire(end.attempt.as_ref())?, error.to_owned(), end.retryable));
    }
    let running: Result<Vec<AttemptId>> =
        request.running.iter().map(|attempt| from_wire(Some(attempt))).collect();
    let slots = request.slots.min(SLOTS_MAX);
    let stages = request.stages.iter().take(16).map(|stage| {
        let name: String = stage.stage.chars().take(32).collect();
        (name, stage.busy_ms, stage.rows)
    });
    let mut offers: Vec<ModelKey> = models
        .iter()
        .map(|model| ModelKey { name: model.name.clone(), digest: model.digest.clone() })
        .collect();
    let mut pythons = Vec::new();
    for interpreter in request.interpreters.iter().take(INTERPRETERS_MAX) {
        let python_version = text("python_version", &interpreter.python_version)?.to_owned();
        pythons.push(python_version.clone());
        let plain = Interpreter { python_version, gpu: false };
        if interpreter.gpu {
            offers.push(Interpreter { gpu: true, ..plain.clone() }.key());
        }
        offers.push(plain.key());
    }
    for runner in request.runners.iter().take(RUNNERS_MAX) {
        offers.push(runner_key(text("runners", runner)?));
    }
    let mut labels = Labels::new();
    for label in request.labels.iter().take(LABELS_MAX) {
        let (name, value) = (text("label", &label.name)?, text("label", &label.value)?);
        labels.insert(name.to_owned(), value.to_owned());
    }
    let resources = request.resources.unwrap_or_default();
    let resources = Resources {
        cpus: resources.cpus,
        gpus: resources.gpus,
        gpu_memory_mb: resources.gpu_memory_mb,
    };
    let gpus = request.gpus.iter().take(GPUS_MAX).map(|gpu| GpuView {
        name: gpu.name.chars().take(64).collect(),
        memory_mb: gpu.memory_mb,
        memory_used_mb: gpu.memory_used_mb,
        busy_percent: gpu.busy_percent.min(100),
    });
    let view = WorkerView {
        worker: text("worker", &request.worker)?.to_owned(),
        instance: text("instance", &request.instance)?.to_owned(),
        device: request.device.chars().take(64).collect(),
        slots,
        running: request.running.len(),
        since_ms: now_ms,
        seen_ms: now_ms,
        model_names: models.iter().map(|model| model.name.clone()).collect(),
        models,
        pythons,
        offers: offers.clone(),
        stages: stages.collect(),
        labels: labels.clone(),
        resources,
        utilization: None,
        gpus: gpus.collect(),
        looked: (now_ms, 0),
    };
    let sync = WorkerSync {
        instance: request.instance.clone(),
        slots,
        running: running?,
        done,
        failed,
        took_ms,
        models: offers,
        labels,
        resources,
        leaving: request.leaving,
    };
    Ok((view, sync))
}
