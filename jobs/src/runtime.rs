//! What drives the scheduler: the clock, the ledger, the lake, and the calls of workers.
//!
//! ```text
//!   submit ─► record ─► drive.rs: plan ─► rows ──┐                     ┌─► groups done ─► fill ─► next
//!   Sync   ─► small results checked ─────► Scheduler::step ─► actions ──┤
//!   put    ─► part stored ─────────────────────►─┘   (perform.rs)      └─► ledger ─► Recorded
//! ```
//!
//! What always holds: the scheduler is told that something is recorded after it was made durable, never
//! before. What is carried out for a call is carried out in a task of its own, so that a caller that
//! goes away cannot leave the scheduler half told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lakebed_core::{Clock, DatabaseName, Error, ErrorKind, Result};
use lakebed_storage::{Lake, SystemStore};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::evaluate::{Evaluating, UNDER_WAY_MAX};
use crate::ids::{AttemptId, JobId, RowRange};
use crate::ledger::{Inline, Ledger};
use crate::models::{ModelInfo, built_in};
use crate::pass::Pass;
use crate::query::PendingQuery;
use crate::registry::Jobs;
use crate::scheduler::{
    Action, Event, Labels, ModelKey, Resources, Scheduler, SchedulerLimits, TaskSize, Terms,
};
use crate::sync::WorkerView;
use crate::work::{ModelWork, Work};

const STARTS: &str = "job_starts";
const TICK: Duration = Duration::from_millis(500);

/// What a job that computes columns does; kept in its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// The table's incarnation.
    pub table_uid: String,
    /// What computes which columns of which.
    #[serde(flatten)]
    pub work: Work,
    /// Only rows for which this SQL expression is true.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// Only rows of this version of a row set, `NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_set: Option<String>,
    /// Whether rows that have a value get a new one.
    pub recompute: bool,
    /// Rows of a task; none where workers get as many as they do in a few seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_rows: Option<u32>,
    /// Rows that a task may have.
    #[serde(default = "rows_max")]
    pub task_rows_max: u32,
    /// Who may run it, and when.
    #[serde(default)]
    pub terms: JobTerms,
    /// The version whose rows are computed.
    pub source_version: u64,
    /// The version of the last such job: rows whose input changed since are computed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<u64>,
    /// Whether only rows are computed that came, or whose inputs changed, since the last such job.
    #[serde(rename = "automatic", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_automatic: bool,
}

fn rows_max() -> u32 {
    RowRange::ROWS_MAX
}

/// Who may run a job, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobTerms {
    /// Jobs of a higher one go first; -100 to 100.
    pub priority: i32,
    /// Workers that may have tasks of it at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
    /// Labels that a worker has to have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What each of its tasks takes of a worker.
    #[serde(skip_serializing_if = "Resources::is_none")]
    pub resources: Resources,
    /// Seconds from its submission after which it is called off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
}

impl ColumnSpec {
    /// What the scheduler is told of it.
    pub(crate) fn scheduled(&self, model: ModelKey) -> Terms {
        let size = match self.task_rows {
            Some(rows) => TaskSize::Fixed(rows),
            None => TaskSize::Measured { rows_max: self.task_rows_max },
        };
        Terms {
            model,
            priority: self.terms.priority,
            workers_max: self.terms.max_workers,
            labels: self.terms.labels.clone(),
            resources: self.terms.resources,
            size,
        }
    }

    /// Whether another job writes one of the columns that this one does.
    pub(crate) fn writes_what(&self, other: &ColumnSpec) -> bool {
        let columns = self.work.output_names();
        self.table_uid == other.table_uid
            && other.work.output_names().iter().any(|column| columns.contains(column))
    }

    /// Whether another job would choose its rows by the same rule, and do the same with them.
    pub(crate) fn does_what(&self, other: &ColumnSpec) -> bool {
        self.table_uid == other.table_uid
            && self.work == other.work
            && self.filter == other.filter
            && self.row_set == other.row_set
            && self.recompute == other.recompute
            && self.is_automatic == other.is_automatic
    }

    /// Whether rows that have a value may get a new one.
    pub(crate) fn replaces(&self) -> bool {
        self.recompute || self.stale_since.is_some()
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Progress {
    /// Rows to compute; none before they are counted.
    pub rows: Option<u64>,
    /// Rows whose results are recorded.
    pub rows_done: u64,
    /// Rows that have an error instead of a value.
    pub errors: u64,
    /// Tasks that nobody has; where their size is measured, the fewest that they can be.
    pub tasks_ready: usize,
    /// Tasks that workers have.
    pub tasks_held: usize,
    /// Attempts that failed or lost their worker since the server took the job up.
    pub retries: u64,
    /// Fragments that were rewritten before they were filled, and are done again.
    pub conflicts: u64,
    /// The workers that have tasks of it, by name.
    pub workers: Vec<String>,
    /// How much of their time these workers computed lately, of 1.
    pub utilization: Option<f64>,
    /// The same of their GPUs, where they can be read.
    pub gpu_utilization: Option<f64>,
    /// Rows per second since the server took the job up.
    pub rows_per_second: Option<f64>,
    /// Time that is left at this rate, in milliseconds.
    pub remaining_ms: Option<u64>,
    /// What it waits for, if it cannot go on.
    pub waits_for: Option<String>,
}

/// Rows that have come to their end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndedRows {
    /// The row after the last.
    pub(crate) end: u64,
    /// How many of them have an error.
    pub(crate) errors: u64,
    pub(crate) how: Ended,
}

/// Where the results of rows are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ended {
    /// In the part of an attempt.
    Part(AttemptId),
    /// In a segment of the ledger, from this row of it on.
    Segment { number: u64, from: u64 },
    /// There are none.
    GivenUp(String),
}

/// A job that is under way in this process.
pub(crate) struct Running {
    pub(crate) id: JobId,
    pub(crate) database: DatabaseName,
    pub(crate) table: String,
    pub(crate) spec: ColumnSpec,
    pub(crate) ledger: Ledger,
    pub(crate) groups: mpsc::UnboundedSender<u32>,
    /// Cancelled when a write to the ledger failed: the job has to be taken up again.
    pub(crate) is_lost: CancellationToken,
    state: Mutex<RunState>,
}

#[derive(Default)]
pub(crate) struct RunState {
    pub(crate) pass: Option<Arc<Pass>>,
    /// Rows of the pass that are recorded, by the first.
    pub(crate) ended: BTreeMap<u64, EndedRows>,
    /// Errors in the parts of attempts that are not recorded.
    pub(crate) staged: HashMap<(u64, u64), u64>,
    /// Results that came with a report and are written down next.
    pub(crate) inline: HashMap<(u64, u64), Inline>,
    pub(crate) conflicts: u64,
    pub(crate) model: Option<ModelKey>,
    /// Rows of the job, as far as they are planned.
    pub(crate) rows: Option<u64>,
    pub(crate) rows_done: u64,
    pub(crate) errors: u64,
    pub(crate) version: Option<u64>,
    /// Whether a task was given up: its rows keep what they have.
    pub(crate) has_given_up: bool,
    /// When this process took the job up, and how far it was.
    pub(crate) since: Option<(i64, u64)>,
    pub(crate) waits_for: Option<String>,
}

impl RunState {
    /// Notes that rows of the pass have come to their end; those of one group and one segment that lie side
    /// by side become one.
    pub(crate) fn end(&mut self, first: u64, rows: EndedRows) {
        let fragment = self.pass.as_ref().and_then(|pass| pass.fragment_at(first));
        if let Ended::Segment { number, from } = rows.how
            && fragment.is_some_and(|fragment| fragment.first < first)
            && let Some((before, last)) = self.ended.range_mut(..first).next_back()
            && last.end == first
            && let Ended::Segment { number: same, from: start } = last.how
            && (same, start + (first - before)) == (number, from)
        {
            last.end = rows.end;
            last.errors += rows.errors;
            return;
        }
        self.ended.insert(first, rows);
    }
}

impl Running {
    pub(crate) fn new(
        id: JobId,
        database: DatabaseName,
        table: String,
        spec: ColumnSpec,
        ledger: Ledger,
    ) -> (Arc<Running>, mpsc::UnboundedReceiver<u32>) {
        let (groups, done) = mpsc::unbounded_channel();
        let (is_lost, state) = (CancellationToken::new(), Mutex::default());
        let running = Running { id, database, table, spec, ledger, groups, is_lost, state };
        (Arc::new(running), done)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pass(&self) -> Result<Arc<Pass>> {
        self.state().pass.clone().ok_or_else(|| Error::not_found("the job has no tasks yet"))
    }
}

/// The jobs whose tasks attached workers run.
pub struct ColumnJobs {
    pub(crate) lake: Arc<Lake>,
    pub(crate) system: SystemStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) records: Arc<Jobs>,
    pub(crate) limits: SchedulerLimits,
    pub(crate) stop: CancellationToken,
    /// While this server runs the jobs; ends when another takes over.
    term: Mutex<Option<CancellationToken>>,
    scheduler: Mutex<Scheduler>,
    running: Mutex<HashMap<JobId, Arc<Running>>>,
    workers: Mutex<HashMap<String, WorkerView>>,
    pub(crate) queries: Mutex<HashMap<JobId, PendingQuery>>,
    pub(crate) evaluations: Mutex<HashMap<JobId, Arc<Evaluating>>>,
    /// Bounds the tasks of evaluations that are under way.
    pub(crate) evaluating_tasks: Arc<Semaphore>,
    /// Held while a job is submitted, so that two never begin on one column.
    pub(crate) submitting: tokio::sync::Mutex<()>,
    /// Rises when a worker that waits may have something to do.
    changed: watch::Sender<u64>,
}

impl ColumnJobs {
    /// Opens the runtime. On a lake with one server it takes up the jobs that are not over; with several
    /// they wait for [`ColumnJobs::begin`].
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn open(
        lake: Arc<Lake>,
        clock: Arc<dyn Clock>,
        records: Arc<Jobs>,
        task_lease_ms: i64,
        is_shared: bool,
    ) -> Result<Arc<ColumnJobs>> {
        let limits = SchedulerLimits { lease_ms: task_lease_ms, ..SchedulerLimits::default() };
        let system = lake.system().clone();
        let jobs = Arc::new(ColumnJobs {
            system,
            clock,
            scheduler: Mutex::new(Scheduler::new(limits.clone(), 0)),
            term: Mutex::default(),
            limits,
            lake,
            records,
            stop: CancellationToken::new(),
            running: Mutex::default(),
            workers: Mutex::default(),
            queries: Mutex::default(),
            evaluations: Mutex::default(),
            evaluating_tasks: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            submitting: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
        });
        if !is_shared {
            jobs.begin().await?;
        }
        let ticking = Arc::downgrade(&jobs);
        let stop = jobs.stop.clone();
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while stop.run_until_cancelled(interval.tick()).await.is_some() {
                let Some(jobs) = ticking.upgrade() else { return };
                let actions = jobs.step(Event::Tick);
                jobs.perform(actions).await;
                jobs.forget_workers();
                metrics::gauge!("lakebed_workers").set(jobs.workers().len() as f64);
                metrics::counter!("lakebed_job_retries_total").absolute(jobs.scheduler().retries());
                jobs.wake();
            }
        });
        Ok(jobs)
    }

    /// Runs the jobs from here on: takes up those of the records that are not over.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn begin(self: &Arc<Self>) -> Result<()> {
        let start = count_start(&self.system).await?;
        *self.scheduler() = Scheduler::new(self.limits.clone(), start);
        let term = self.stop.child_token();
        *self.lock_term() = Some(term.clone());
        for (job, cancel) in self.records.unfinished() {
            self.take_up(job, cancel, term.clone(), None);
        }
        Ok(())
    }

    /// Leaves the jobs to another server: workers that wait are answered, jobs stay as they are on disk.
    pub fn stand_down(&self) {
        if let Some(term) = self.lock_term().take() {
            term.cancel();
        }
        self.running().clear();
        self.workers().clear();
        self.queries.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (_, evaluating) in self.evaluations().drain() {
            evaluating.abandon();
        }
        self.wake();
    }

    /// Whether this server runs the jobs.
    pub fn is_running(&self) -> bool {
        self.lock_term().is_some()
    }

    /// Ends when this server does not run the jobs any more.
    ///
    /// # Errors
    /// `Unavailable` when it does not.
    pub(crate) fn term(&self) -> Result<CancellationToken> {
        self.lock_term().clone().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "another server runs the jobs")
                .with_retry_after_ms(1_000)
        })
    }

    fn lock_term(&self) -> MutexGuard<'_, Option<CancellationToken>> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops: waiting workers are answered, jobs stay as they are on disk.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn step(&self, event: Event) -> Vec<Action> {
        self.scheduler().step(self.clock.now_ms(), event)
    }

    pub(crate) fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn workers(&self) -> MutexGuard<'_, HashMap<String, WorkerView>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job that is under way.
    pub(crate) fn find(&self, job: &JobId) -> Option<Arc<Running>> {
        self.running().get(job).cloned()
    }

    /// Lets workers that wait look again.
    pub(crate) fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The models that are built in or offered, by name.
    pub fn models(&self) -> Vec<ModelInfo> {
        let mut models = built_in();
        for worker in self.workers().values() {
            for offered in &worker.models {
                match models.iter_mut().find(|model| model.name == offered.name) {
                    Some(known) => {
                        known.digest = offered.digest.clone();
                        known.workers += 1;
                    }
                    None => models.push(ModelInfo { workers: 1, ..offered.clone() }),
                }
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// How far a job is; nothing for one that is not under way.
    pub fn progress(&self, job: &str) -> Option<Progress> {
        let id = JobId::new(job);
        let Some(run) = self.find(&id) else {
            let before = self.before(job)?;
            let waits_for = Some(format!("job {before}, which writes the same column"));
            return Some(Progress { waits_for, ..Progress::default() });
        };
        let counts = self.scheduler().counts(&id);
        let state = run.state();
        let rows = state.rows;
        let now_ms = self.clock.now_ms();
        let rate = state.since.and_then(|(since_ms, done)| {
            let seconds = now_ms.saturating_sub(since_ms) as f64 / 1_000.0;
            let fresh = state.rows_done.saturating_sub(done);
            (seconds > 0.0 && fresh > 0).then(|| fresh as f64 / seconds)
        });
        let (workers, utilization, gpu_utilization) = self.use_of(&counts.workers);
        let left = rows.map(|rows| rows.saturating_sub(state.rows_done));
        let remaining_ms = left.zip(rate).map(|(left, rate)| (left as f64 / rate * 1_000.0) as u64);
        Some(Progress {
            rows,
            rows_done: state.rows_done,
            errors: state.errors,
            tasks_ready: counts.ready,
            tasks_held: counts.held,
            retries: counts.retries,
            conflicts: state.conflicts,
            workers,
            utilization,
            gpu_utilization,
            rows_per_second: rate,
            remaining_ms,
            waits_for: state
                .waits_for
                .clone()
                .or_else(|| self.waits_for(&run, counts.ready, &state)),
        })
    }

    /// The names of some workers, and how much of their time and their GPUs' they use, on average.
    fn use_of(&self, instances: &[String]) -> (Vec<String>, Option<f64>, Option<f64>) {
        let workers = self.workers();
        let found: Vec<&WorkerView> =
            instances.iter().filter_map(|instance| workers.get(instance)).collect();
        let mut names: Vec<String> = found.iter().map(|worker| worker.worker.clone()).collect();
        names.sort_unstable();
        let mean = |shares: Vec<f64>| {
            (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
        };
        let busy = mean(found.iter().filter_map(|worker| worker.utilization).collect());
        let gpus = found.iter().flat_map(|worker| &worker.gpus);
        let gpus = mean(gpus.map(|gpu| f64::from(gpu.busy_percent) / 100.0).collect());
        (names, busy, gpus)
    }

    fn waits_for(&self, run: &Running, ready: usize, state: &RunState) -> Option<String> {
        let model = state.model.clone().unwrap_or_else(|| run.spec.work.need());
        let terms = run.spec.scheduled(model);
        let workers = self.workers();
        let is_offered = |worker: &&WorkerView| {
            worker.offers.iter().any(|offered| terms.model.is_met_by(offered))
        };
        if ready == 0 {
            return None;
        }
        let offering: Vec<&WorkerView> = workers.values().filter(is_offered).collect();
        if offering.is_empty() {
            return Some(match &run.spec.work {
                Work::Model(ModelWork { registered: Some(_), .. }) => {
                    "a worker that runs registered models".to_owned()
                }
                Work::Model(_) => format!("a worker with the model {}", terms.model.name),
                Work::Function(work) => work.interpreter.to_string(),
            });
        }
        let fits = |worker: &&WorkerView| {
            terms.are_met_by(&worker.labels) && worker.resources.covers(&terms.resources)
        };
        (!offering.iter().any(fits)).then(|| {
            let labels = terms.labels.iter().map(|(name, value)| format!("{name}={value}"));
            let Resources { cpus, gpus, gpu_memory_mb } = terms.resources;
            let counts = [(cpus.into(), "CPUs"), (gpus.into(), "GPUs")];
            let counts = counts.into_iter().chain([(gpu_memory_mb, "MiB of GPU memory")]);
            let counts = counts.filter(|(count, _): &(u64, &str)| *count > 0);
            let counts = counts.map(|(count, what)| format!("{count} {what}"));
            let wanted: Vec<String> = labels.chain(counts).collect();
            format!("a worker with {}", wanted.join(", "))
        })
    }
}

/// Counts this start of the server, durably.
async fn count_start(system: &SystemStore) -> Result<u32> {
    let before = match system.get(STARTS).await? {
        None => 0,
        Some(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "`job_starts` is no number"))?,
    };
    let start = before.saturating_add(1);
    system.put(STARTS, Bytes::from(start.to_string())).await?;
    Ok(start)
}
