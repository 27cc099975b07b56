//! The scheduler: which worker holds which task, as a state machine without clock, disk or network.
//!
//! ```text
//!            Assign                done, staged           Recorded
//!   Ready ───────────► Held ───────────────────► Recording ─────────► Done
//!     ▲                 │ lease ran out, failed      │ RecordFailed
//!     └─────────────────┴────────────────────────────┘
//!                       └─ too often: GiveUp ─► Recording
//! ```
//!
//! [`Scheduler::step`] takes the time and what happened, and says what to do. It is never told what it
//! said before, so an answer that was lost is made good by the next step. Whoever drives it writes down
//! what [`Action::Record`] and [`Action::GiveUp`] name, and says [`Event::Recorded`] once that is
//! durable. Nothing else has to be durable: after a restart all tasks that are not recorded are ready,
//! and workers bring back what they hold.
//!
//! What always holds: a task is recorded under one attempt; what comes under another attempt than the
//! one that holds the task is told to stop or forgotten; a task that nobody works on is ready; a task
//! that fails or loses its worker too often is given up, so every job ends.

mod queries;
#[cfg(test)]
mod simulation;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{AttemptId, JobId};
use queries::Query;

/// When a lease ends and when a task is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// How long an attempt is held without being named again, in milliseconds.
    pub lease_ms: i64,
    /// Attempts of a task that may fail.
    pub failures_max: u32,
    /// Attempts of a task whose worker may be lost: more than failures, because a worker is mostly lost
    /// for other reasons than the task.
    pub losses_max: u32,
    /// Wait before a task that failed is tried again, in milliseconds; doubled at each failure.
    pub retry_ms: i64,
    /// When a worker that is silent is forgotten, in milliseconds.
    pub forget_ms: i64,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        SchedulerLimits {
            lease_ms: 20_000,
            failures_max: 3,
            losses_max: 20,
            retry_ms: 500,
            forget_ms: 120_000,
        }
    }
}

/// How the error of a task begins whose workers were all lost.
pub(crate) const LOST_TOO_OFTEN: &str = "its worker was lost";

/// What workers offer and jobs ask for: a model, or an interpreter that runs functions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelKey {
    /// Its name.
    pub name: String,
    /// The digest of its weights, or the version of an interpreter; a job without one takes the first that
    /// is offered, and keeps to it.
    pub digest: Option<String>,
}

impl ModelKey {
    /// Whether a worker that offers the other one can do with it.
    pub(crate) fn is_met_by(&self, offered: &ModelKey) -> bool {
        self.name == offered.name && (self.digest.is_none() || self.digest == offered.digest)
    }
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WorkerSync {
    /// The process.
    pub instance: String,
    /// Tasks that it can hold.
    pub slots: u32,
    /// What it works on.
    pub running: Vec<AttemptId>,
    /// What it has ended; queries with their vectors.
    pub done: Vec<(AttemptId, Vec<f32>)>,
    /// What failed, why, and whether another attempt may succeed.
    pub failed: Vec<(AttemptId, String, bool)>,
    /// What it can run.
    pub models: Vec<ModelKey>,
    /// Whether it takes nothing more and gives back what it runs.
    pub leaving: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// There is a job.
    AddJob {
        /// The job.
        job: JobId,
        /// What its tasks need.
        model: ModelKey,
    },
    /// A job has more tasks; each with its group.
    AddTasks {
        /// The job.
        job: JobId,
        /// Task and group; numbers of tasks are never used twice in a job.
        tasks: Vec<(u64, u32)>,
    },
    /// A job shall be given no more tasks for now.
    Pause(JobId),
    /// A paused job goes on.
    Resume(JobId),
    /// A job has ended, or was called off.
    RemoveJob(JobId),
    /// A worker reported.
    Sync(WorkerSync),
    /// A worker whose report is answered already still waits for something to do. What it reported is
    /// old by now, so only its free slots count.
    Wait {
        /// Its process.
        instance: String,
        /// Tasks that it can hold.
        slots: u32,
        /// What it can run.
        models: Vec<ModelKey>,
    },
    /// The results of an attempt are durable.
    Staged(AttemptId),
    /// What [`Action::Record`] or [`Action::GiveUp`] named is written down.
    Recorded(AttemptId),
    /// It could not be written down.
    RecordFailed(AttemptId),
    /// Somebody waits for the vector of a text or picture.
    Ask {
        /// Its id.
        query: JobId,
        /// What it needs.
        model: ModelKey,
    },
    /// Nobody waits any more.
    DropQuery(JobId),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Tell the worker to take on an attempt; it may have been told before.
    Assign {
        /// The worker's process.
        instance: String,
        /// The attempt.
        attempt: AttemptId,
        /// The model, with its digest.
        model: ModelKey,
    },
    /// Tell the worker to drop an attempt.
    Stop {
        /// The worker's process.
        instance: String,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Tell the worker that it need not name an ended attempt again.
    Forget {
        /// The worker's process.
        instance: String,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Write down that a task was done by this attempt.
    Record(AttemptId),
    /// Write down that a task is given up.
    GiveUp(AttemptId, String),
    /// A job keeps to this model from now on.
    ChooseModel(JobId, ModelKey),
    /// All tasks of a group are recorded.
    GroupDone(JobId, u32),
    /// A query has its vector, or why it has none.
    Answer(JobId, Result<Vec<f32>, String>),
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// Nobody has it; not before this time.
    Ready(i64),
    Held {
        instance: String,
        until_ms: i64,
    },
    Recording,
    Done,
}

#[derive(Debug)]
struct Task {
    group: u32,
    state: State,
    /// The attempt that has it, or had it last.
    attempt: u64,
    /// Whether that attempt was given back or failed: it cannot be taken up again.
    is_over: bool,
    /// The attempt whose results are durable.
    staged: Option<u64>,
    failures: u32,
    losses: u32,
}

#[derive(Debug)]
struct Job {
    model: ModelKey,
    is_paused: bool,
    tasks: BTreeMap<u64, Task>,
    /// Tasks that nobody has, by when they may be given away.
    ready: BTreeSet<(i64, u64)>,
    held: usize,
    /// Tasks of each group that are not recorded.
    open: BTreeMap<u32, usize>,
}

#[derive(Debug)]
struct Worker {
    seen_ms: i64,
    held: BTreeSet<(JobId, u64)>,
}

/// How far a job's tasks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Nobody has them.
    pub ready: usize,
    /// Workers have them.
    pub held: usize,
    /// They are recorded, or about to be.
    pub done: usize,
}

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    next_attempt: u64,
    jobs: BTreeMap<JobId, Job>,
    workers: BTreeMap<String, Worker>,
    /// Workers that left, and when: what they said before and comes late is not heard.
    left: BTreeMap<String, i64>,
    leases: BTreeSet<(i64, JobId, u64)>,
    queries: BTreeMap<JobId, Query>,
}

impl Scheduler {
    /// A scheduler without jobs. `start` counts the server's starts on this lake, so that its attempts
    /// are higher than all before.
    pub fn new(limits: SchedulerLimits, start: u32) -> Self {
        Scheduler {
            limits,
            next_attempt: u64::from(start) << 32,
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            left: BTreeMap::new(),
            leases: BTreeSet::new(),
            queries: BTreeMap::new(),
        }
    }

    /// Takes what happened at `now_ms`, which never falls, and says what to do. Only reports of workers,
    /// the passing of time and what was written down or not lead to actions; the other events lead to
    /// none.
    pub fn step(&mut self, now_ms: i64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::AddJob { job, model } => {
                self.jobs.entry(job).or_insert_with(|| Job::new(model));
            }
            Event::AddTasks { job, tasks } => self.add_tasks(&job, tasks),
            Event::Pause(job) => self.set_paused(&job, true),
            Event::Resume(job) => self.set_paused(&job, false),
            Event::RemoveJob(job) => self.remove(&job),
            Event::Sync(sync) => {
                self.expire(now_ms, &mut actions);
                self.sync(now_ms, sync, &mut actions);
            }
            Event::Wait { instance, slots, models } => {
                self.expire(now_ms, &mut actions);
                self.wait(now_ms, &instance, slots, &models, &mut actions);
            }
            Event::Staged(attempt) => {
                if self.may_stage(&attempt)
                    && let Some(task) = self.task_mut(&attempt)
                {
                    task.staged = Some(attempt.attempt);
                }
            }
            Event::Recorded(attempt) => self.recorded(&attempt, &mut actions),
            Event::RecordFailed(attempt) => self.record_failed(now_ms, &attempt),
            Event::Ask { query, model } => {
                self.queries.insert(query, Query::new(model));
            }
            Event::DropQuery(query) => {
                self.queries.remove(&query);
            }
            Event::Tick => self.expire(now_ms, &mut actions),
        }
        actions
    }

    /// Whether results under this attempt are welcome: it has its task, or may take it up again after a
    /// restart of the server.
    pub fn may_stage(&self, attempt: &AttemptId) -> bool {
        let task = self.jobs.get(&attempt.job).and_then(|job| job.tasks.get(&attempt.task));
        task.is_some_and(|task| match task.state {
            State::Held { .. } => task.attempt == attempt.attempt,
            State::Ready(_) => task.may_take_up(attempt.attempt),
            State::Recording | State::Done => false,
        })
    }

    /// How far the tasks of a job are.
    pub fn counts(&self, job: &JobId) -> TaskCounts {
        let Some(job) = self.jobs.get(job) else { return TaskCounts::default() };
        let (ready, held) = (job.ready.len(), job.held);
        TaskCounts { ready, held, done: job.tasks.len() - ready - held }
    }

    fn task_mut(&mut self, attempt: &AttemptId) -> Option<&mut Task> {
        self.jobs.get_mut(&attempt.job)?.tasks.get_mut(&attempt.task)
    }

    fn add_tasks(&mut self, job: &JobId, tasks: Vec<(u64, u32)>) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        for (id, group) in tasks {
            if job.tasks.contains_key(&id) {
                continue;
            }
            job.tasks.insert(id, Task::new(group));
            job.ready.insert((0, id));
            *job.open.entry(group).or_default() += 1;
        }
    }

    fn set_paused(&mut self, job: &JobId, is_paused: bool) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.is_paused = is_paused;
        }
    }

    fn remove(&mut self, job: &JobId) {
        self.jobs.remove(job);
        self.leases.retain(|(_, of, _)| of != job);
        for worker in self.workers.values_mut() {
            worker.held.retain(|(of, _)| of != job);
        }
    }

    /// Takes back what was held too long, and forgets who was silent too long.
    fn expire(&mut self, now_ms: i64, actions: &mut Vec<Action>) {
        while let Some((until_ms, job, task)) = self.leases.first().cloned()
            && until_ms < now_ms
        {
            let Some(attempt) = self.release(now_ms, &job, task) else {
                self.leases.pop_first();
                continue;
            };
            let losses_max = self.limits.losses_max;
            let Some(found) = self.task_mut(&attempt) else { continue };
            found.losses += 1;
            if found.losses >= losses_max {
                let error = format!("{LOST_TOO_OFTEN} {losses_max} times");
                self.give_up(attempt, error, actions);
            }
        }
        let forget_ms = self.limits.forget_ms;
        self.workers.retain(|_, worker| {
            !worker.held.is_empty() || worker.seen_ms.saturating_add(forget_ms) >= now_ms
        });
        self.left.retain(|_, left_ms| left_ms.saturating_add(forget_ms) >= now_ms);
        self.expire_queries(now_ms);
    }

    /// Takes a task from whoever holds it; it is ready at `ready_ms`.
    fn release(&mut self, ready_ms: i64, job_id: &JobId, task: u64) -> Option<AttemptId> {
        let job = self.jobs.get_mut(job_id)?;
        let found = job.tasks.get_mut(&task)?;
        let State::Held { instance, until_ms } = &found.state else { return None };
        self.leases.remove(&(*until_ms, job_id.clone(), task));
        if let Some(worker) = self.workers.get_mut(instance) {
            worker.held.remove(&(job_id.clone(), task));
        }
        found.state = State::Ready(ready_ms);
        job.held -= 1;
        job.ready.insert((ready_ms, task));
        Some(AttemptId { job: job_id.clone(), task, attempt: found.attempt })
    }

    /// Gives a ready task to a worker under an attempt.
    fn hold(&mut self, now_ms: i64, instance: &str, attempt: &AttemptId) {
        let until_ms = now_ms.saturating_add(self.limits.lease_ms);
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let Some(task) = job.tasks.get_mut(&attempt.task) else { return };
        let State::Ready(ready_ms) = task.state else { return };
        job.ready.remove(&(ready_ms, attempt.task));
        job.held += 1;
        task.state = State::Held { instance: instance.to_owned(), until_ms };
        task.attempt = attempt.attempt;
        task.is_over = false;
        self.leases.insert((until_ms, attempt.job.clone(), attempt.task));
        if let Some(worker) = self.workers.get_mut(instance) {
            worker.held.insert((attempt.job.clone(), attempt.task));
        }
    }

    /// Moves a ready task to those that are being recorded.
    fn start_recording(&mut self, attempt: &AttemptId) {
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let Some(task) = job.tasks.get_mut(&attempt.task) else { return };
        if let State::Ready(ready_ms) = task.state {
            job.ready.remove(&(ready_ms, attempt.task));
            task.state = State::Recording;
            task.attempt = attempt.attempt;
        }
    }

    fn give_up(&mut self, attempt: AttemptId, error: String, actions: &mut Vec<Action>) {
        self.start_recording(&attempt);
        actions.push(Action::GiveUp(attempt, error));
    }

    fn recorded(&mut self, attempt: &AttemptId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let Some(task) = job.tasks.get_mut(&attempt.task) else { return };
        if task.state != State::Recording || task.attempt != attempt.attempt {
            return;
        }
        task.state = State::Done;
        let group = task.group;
        let Some(open) = job.open.get_mut(&group) else { return };
        *open -= 1;
        if *open == 0 {
            job.open.remove(&group);
            actions.push(Action::GroupDone(attempt.job.clone(), group));
        }
    }

    fn record_failed(&mut self, now_ms: i64, attempt: &AttemptId) {
        let retry_ms = now_ms.saturating_add(self.limits.retry_ms);
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let Some(task) = job.tasks.get_mut(&attempt.task) else { return };
        if task.state == State::Recording && task.attempt == attempt.attempt {
            task.state = State::Ready(retry_ms);
            job.ready.insert((retry_ms, attempt.task));
        }
    }
}

impl Job {
    fn new(model: ModelKey) -> Self {
        Job {
            model,
            is_paused: false,
            tasks: BTreeMap::new(),
            ready: BTreeSet::new(),
            held: 0,
            open: BTreeMap::new(),
        }
    }

    /// The task to give away next: the lowest of those that may be, so that groups are done one after
    /// the other.
    fn next_ready(&self, now_ms: i64) -> Option<u64> {
        if self.is_paused {
            return None;
        }
        let due = self.ready.range(..=(now_ms, u64::MAX));
        // Those that never failed lie at time 0, in order; others are few.
        due.map(|(_, task)| *task).take(64).min()
    }
}

impl Task {
    /// Whether an attempt may have the task while nobody has it: after a restart of the server, or when
    /// its lease ran out and nobody else got the task.
    fn may_take_up(&self, attempt: u64) -> bool {
        attempt > self.attempt || (attempt == self.attempt && !self.is_over)
    }

    fn new(group: u32) -> Self {
        Task {
            group,
            state: State::Ready(0),
            attempt: 0,
            is_over: false,
            staged: None,
            failures: 0,
            losses: 0,
        }
    }
}
