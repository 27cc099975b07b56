//! Records of jobs: work that outlives its request, such as building an index.
//!
//! A job has a record under `_lakebed/jobs/`, written when it begins and when it ends, so that a client
//! that polls finds it also after a restart. What ran inside the server when it stopped is failed and may
//! be asked for again; it committed nothing. Of these one runs at a time: building an index uses all
//! cores. Jobs whose tasks workers run ([`COMPUTE_COLUMN`]) have their records here and go on after a
//! restart; see `runtime.rs`.
//!
//! ```text
//!   request ─► checked ─► record IN_PROGRESS ─► queue ─► work ─► record DONE | FAILED | CANCELLED
//! ```

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lakebed_core::{Clock, Error, ErrorKind, RequestContext, Result};
use lakebed_storage::SystemStore;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Records that are kept; the oldest finished ones go first.
const JOBS_MAX: usize = 1_000;
const FOLDER: &str = "jobs";
/// The type of jobs in which attached workers run a model over a column.
pub const COMPUTE_COLUMN: &str = "compute_column";
/// The type of jobs in which attached workers run a function over columns.
pub const REFRESH_COLUMNS: &str = "refresh_function_columns";

/// Whether attached workers run the tasks of a job.
pub(crate) fn is_column_job(job: &Job) -> bool {
    matches!(job.job_type.as_str(), COMPUTE_COLUMN | REFRESH_COLUMNS)
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// It waits or works.
    InProgress,
    /// It waits until it is resumed.
    Paused,
    /// It is done and what it made is committed.
    Done,
    /// It ended with an error and committed nothing.
    Failed,
    /// It took longer than it may; what it committed before stays.
    TimedOut,
    /// It was called off; unless its commit was under way by then, it committed nothing.
    Cancelled,
}

impl JobState {
    /// Whether the job is over.
    pub fn is_ended(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::TimedOut | JobState::Cancelled)
    }
}

/// One job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub job_id: String,
    /// What it does, such as `create_index`.
    pub job_type: String,
    /// The database of its table.
    pub database: String,
    /// Its table, namespaces joined with `$`.
    pub table: String,
    /// How far it has come.
    pub state: JobState,
    /// When it was asked for.
    pub created_at_ms: i64,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
    /// What was asked for.
    pub spec: serde_json::Value,
    /// What it made, once it is done.
    pub result: Option<serde_json::Value>,
    /// Why it failed.
    pub failure: Option<String>,
    /// The server that it runs in, of a lake with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// The jobs of one server.
pub struct Jobs {
    pub(crate) system: SystemStore,
    clock: Arc<dyn Clock>,
    turn: Arc<Semaphore>,
    stop: CancellationToken,
    /// This server, of a lake with several.
    server: OnceLock<String>,
    /// Told when a job of this server has ended.
    ended: Notify,
    known: Mutex<HashMap<String, (Job, CancellationToken)>>,
    /// Jobs whose record is not durable yet, with what tells that it is.
    noted: Mutex<HashMap<String, CancellationToken>>,
}

impl Jobs {
    /// Reads the records; what was at work when the server stopped is failed now. Of a lake with several
    /// servers nothing is read yet, see [`Jobs::refresh`].
    pub async fn open(
        system: SystemStore,
        clock: Arc<dyn Clock>,
        is_shared: bool,
    ) -> Result<Arc<Jobs>> {
        let jobs = Jobs {
            system,
            clock,
            turn: Arc::new(Semaphore::new(1)),
            stop: CancellationToken::new(),
            server: OnceLock::new(),
            ended: Notify::new(),
            known: Mutex::default(),
            noted: Mutex::default(),
        };
        if !is_shared {
            jobs.refresh(true, |_| false).await?;
        }
        Ok(Arc::new(jobs))
    }

    /// Says which of the servers of the lake this one is.
    pub fn join(&self, server: String) {
        let _ = self.server.set(server);
    }

    /// Reads the records that may have changed since they were read. What was at work in a server that
    /// is gone is failed now. Those of columns that workers compute are read only with `with_columns`:
    /// while this server runs them, it knows better.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn refresh(
        &self,
        with_columns: bool,
        is_there: impl Fn(&str) -> bool + Send,
    ) -> Result<()> {
        let mut stored = HashSet::new();
        for object in self.system.list(FOLDER).await? {
            if let Some(job_id) = id_of(&object.path) {
                stored.insert(job_id.to_owned());
                if self.is_known_best(job_id, with_columns) {
                    continue;
                }
            }
            let Some(bytes) = self.system.get(&object.path).await? else { continue };
            let Ok(mut job) = serde_json::from_slice::<Job>(&bytes) else {
                tracing::warn!(path = object.path, "a job's record cannot be read");
                continue;
            };
            let is_alive = job.server.as_deref().is_some_and(&is_there);
            if job.state == JobState::InProgress && !is_column_job(&job) && !is_alive {
                job.state = JobState::Failed;
                job.failure = Some("the server stopped before the job was done".to_owned());
                job.ended_at_ms = Some(self.clock.now_ms());
                self.store(&job).await?;
            }
            self.remember(job, self.stop.child_token());
        }
        // Another server forgot them.
        self.lock().retain(|job_id, _| stored.contains(job_id));
        Ok(())
    }

    /// Whether the record of a job says nothing that is not known.
    fn is_known_best(&self, job_id: &str, with_columns: bool) -> bool {
        let known = self.lock();
        known.get(job_id).is_some_and(|(job, _)| {
            let is_here = job.server.is_some() && job.server.as_ref() == self.server.get();
            match is_column_job(job) {
                true => job.state.is_ended() || !with_columns,
                false => job.state.is_ended() || is_here,
            }
        })
    }

    /// Calls off what runs; its records say so at the next start.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Begins a job; `work` gives its result.
    ///
    /// # Errors
    /// `Unavailable` when its record cannot be written.
    pub async fn begin<F>(
        self: &Arc<Self>,
        ctx: &RequestContext,
        job_type: &str,
        table: String,
        spec: serde_json::Value,
        work: F,
    ) -> Result<String>
    where
        F: Future<Output = Result<serde_json::Value>> + Send + 'static,
    {
        let turn = Arc::clone(&self.turn);
        let in_turn = async move {
            let _turn = turn.acquire_owned().await;
            work.await
        };
        self.begin_unqueued(ctx, job_type, table, spec, in_turn).await
    }

    /// Begins a job that needs little of this server and does not wait for its turn.
    ///
    /// # Errors
    /// As [`Jobs::begin`].
    pub async fn begin_unqueued<F>(
        self: &Arc<Self>,
        ctx: &RequestContext,
        job_type: &str,
        table: String,
        spec: serde_json::Value,
        work: F,
    ) -> Result<String>
    where
        F: Future<Output = Result<serde_json::Value>> + Send + 'static,
    {
        let job = Job {
            job_id: uuid::Uuid::now_v7().to_string(),
            job_type: job_type.to_owned(),
            database: ctx.database.to_string(),
            table,
            state: JobState::InProgress,
            created_at_ms: self.clock.now_ms(),
            ended_at_ms: None,
            spec,
            result: None,
            failure: None,
            server: self.server.get().cloned(),
        };
        self.forget_old().await?;
        self.store(&job).await?;
        let cancel = self.stop.child_token();
        self.remember(job.clone(), cancel.clone());
        let (jobs, job_id) = (Arc::clone(self), job.job_id.clone());
        tokio::spawn(async move { jobs.run(job, cancel, work).await });
        Ok(job_id)
    }

    async fn run<F>(&self, mut job: Job, cancel: CancellationToken, work: F)
    where
        F: Future<Output = Result<serde_json::Value>> + Send + 'static,
    {
        // A task of its own: a panic of a library ends the job and nothing else.
        let work = AbortOnDropHandle::new(tokio::spawn(work));
        let ended = cancel.run_until_cancelled(work).await;
        if self.stop.is_cancelled() {
            return;
        }
        match ended {
            None => job.state = JobState::Cancelled,
            Some(Ok(Ok(result))) => {
                job.state = JobState::Done;
                job.result = Some(result);
            }
            Some(Ok(Err(error))) => {
                let (job_id, report) = (&job.job_id, error.report());
                match error.kind() {
                    // Whoever asked for it has to change something.
                    ErrorKind::InvalidArgument
                    | ErrorKind::NotFound
                    | ErrorKind::NotImplemented => {
                        tracing::info!(job_id, error = %report, "a job failed");
                    }
                    _ => tracing::warn!(job_id, error = %report, "a job failed"),
                }
                job.state = JobState::Failed;
                job.failure = Some(error.message().to_owned());
            }
            Some(Err(error)) => {
                tracing::error!(job_id = job.job_id, %error, "a job broke off");
                job.state = JobState::Failed;
                job.failure = Some("the job broke off".to_owned());
            }
        }
        job.ended_at_ms = Some(self.clock.now_ms());
        if let Err(error) = self.store(&job).await {
            tracing::warn!(job_id = job.job_id, error = %error.report(), "a job's end was not stored");
        }
        self.remember(job, cancel);
        self.ended.notify_waiters();
    }

    /// The record of a job that this server runs, once it has ended; nothing when it takes longer than this.
    pub async fn ended(&self, job_id: &str, within: Duration) -> Option<Job> {
        let wait = async {
            loop {
                let mut next = pin!(self.ended.notified());
                // Before the look, so that an end right after it is not missed.
                next.as_mut().enable();
                let (job, _) = self.find(job_id).ok()?;
                if job.state.is_ended() {
                    return Some(job);
                }
                next.await;
            }
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }

    /// Returns once something is so that only the end of a job brings about.
    pub(crate) async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut next = pin!(self.ended.notified());
            next.as_mut().enable();
            if is_so() {
                return;
            }
            next.await;
        }
    }

    fn remember(&self, job: Job, cancel: CancellationToken) {
        self.lock().insert(job.job_id.clone(), (job, cancel));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Job, CancellationToken)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, job: &Job) -> Result<()> {
        let bytes = serde_json::to_vec(job)
            .map_err(|error| Error::internal("write a job's record").with_source(error))?;
        self.system.put(&path_of(&job.job_id), Bytes::from(bytes)).await
    }

    async fn forget_old(&self) -> Result<()> {
        let old: Vec<String> = {
            let known = self.lock();
            let mut ended: Vec<&Job> =
                known.values().map(|(job, _)| job).filter(|job| job.state.is_ended()).collect();
            // Those that nobody asked for come often, and nobody asks after them.
            ended.sort_by_key(|job| (!is_automatic(job), job.created_at_ms));
            let excess = known.len().saturating_sub(JOBS_MAX - 1);
            ended.iter().take(excess).map(|job| job.job_id.clone()).collect()
        };
        for job_id in old {
            self.system.delete(&path_of(&job_id)).await?;
            self.lock().remove(&job_id);
        }
        Ok(())
    }

    /// Notes a job that runs elsewhere and may begin, before its record is durable, for which
    /// [`Jobs::store_noted`] sees. Returns what calls it off, and what is cancelled once it is durable.
    pub(crate) fn note(&self, mut job: Job) -> (CancellationToken, CancellationToken) {
        job.server = self.server.get().cloned();
        let (cancel, is_stored) = (self.stop.child_token(), CancellationToken::new());
        self.lock_noted().insert(job.job_id.clone(), is_stored.clone());
        self.remember(job, cancel.clone());
        (cancel, is_stored)
    }

    /// Notes a job that runs elsewhere, with a durable record; returns what calls it off.
    ///
    /// # Errors
    /// `Unavailable` when the record cannot be written; there is no job then.
    pub async fn add(&self, job: Job) -> Result<CancellationToken> {
        let job_id = job.job_id.clone();
        let (cancel, _) = self.note(job);
        self.store_noted(&job_id).await?;
        Ok(cancel)
    }

    /// Makes the record of a noted job durable.
    ///
    /// # Errors
    /// `Unavailable` when the record cannot be written; the job is called off and forgotten then.
    pub(crate) async fn store_noted(&self, job_id: &str) -> Result<()> {
        let stored = async {
            self.forget_old().await?;
            let (job, _) = self.find(job_id)?;
            self.store(&job).await
        };
        let stored = stored.await;
        if stored.is_err()
            && let Some((_, cancel)) = self.lock().remove(job_id)
        {
            cancel.cancel();
        }
        if let Some(is_stored) = self.lock_noted().remove(job_id) {
            is_stored.cancel();
        }
        stored
    }

    fn lock_noted(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record of a job.
    ///
    /// # Errors
    /// `NotFound`, or `Unavailable` when the record cannot be written; it is unchanged then.
    pub async fn change(&self, job_id: &str, change: impl FnOnce(&mut Job)) -> Result<Job> {
        // What comes first is written first.
        let noted = self.lock_noted().get(job_id).cloned();
        if let Some(noted) = noted {
            noted.cancelled().await;
        }
        let (mut job, cancel) = self.find(job_id)?;
        change(&mut job);
        self.store(&job).await?;
        self.remember(job.clone(), cancel);
        if job.state.is_ended() {
            self.ended.notify_waiters();
        }
        Ok(job)
    }

    /// The jobs that are not over and run elsewhere, with what calls them off.
    pub fn unfinished(&self) -> Vec<(Job, CancellationToken)> {
        let known = self.lock();
        let open = known.values().filter(|(job, _)| is_column_job(job) && !job.state.is_ended());
        open.cloned().collect()
    }

    /// All jobs of a database, newest first.
    pub fn of_database(&self, database: &str) -> Vec<Job> {
        let known = self.lock();
        let mut jobs: Vec<Job> = known
            .values()
            .map(|(job, _)| job.clone())
            .filter(|job| job.database == database)
            .collect();
        // Ids are ordered by time.
        jobs.sort_by(|a, b| b.job_id.cmp(&a.job_id));
        jobs
    }

    /// How far a job is, by its record.
    pub(crate) fn state(&self, job_id: &str) -> Option<JobState> {
        self.find(job_id).ok().map(|(job, _)| job.state)
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn find(&self, job_id: &str) -> Result<(Job, CancellationToken)> {
        self.lock().get(job_id).cloned().ok_or_else(|| not_found(job_id))
    }

    /// A job of the request's database, and what calls it off.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub fn get(&self, ctx: &RequestContext, job_id: &str) -> Result<(Job, CancellationToken)> {
        let found = self.find(job_id).ok();
        let found = found.filter(|(job, _)| job.database == ctx.database.as_str());
        found.ok_or_else(|| not_found(job_id))
    }
}

/// Whether the server began the job by itself, because inputs of a column changed.
fn is_automatic(job: &Job) -> bool {
    job.spec.get("automatic").is_some_and(|value| value == &serde_json::Value::Bool(true))
}

/// The error of a job that is not there, with its id made safe to show.
pub(crate) fn not_found(job_id: &str) -> Error {
    let shown: String = job_id.chars().take(80).flat_map(char::escape_debug).collect();
    Error::not_found(format!("job `{shown}` does not exist"))
}

fn id_of(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".json")
}

fn path_of(job_id: &str) -> String {
    format!("{FOLDER}/{job_id}.json")
}
