//! The scheduler: which worker holds which rows, as a state machine without clock, disk or network.
//!
//! ```text
//!            Assign                done, staged           Recorded
//!   ready ───────────► Held ───────────────────► Recording ─────────► gone
//!   rows ▲              │ lease ran out, failed      │ RecordFailed
//!     ▲  └──────────────┴────────────────────────────┘
//!     │                 ├─ often: its halves are ready, down to a row
//!     └─────────────────┘
//!                       └─ too often: GiveUp ─► Recording
//! ```
//!
//! [`Scheduler::step`] takes the time and what happened, and says what to do. It is never told what it
//! said before, so an answer that was lost is made good by the next step. Whoever drives it writes down
//! what [`Action::Record`] and [`Action::GiveUp`] name, and says [`Event::Recorded`] once that is
//! durable. Nothing else has to be durable: after a restart all rows that are not recorded are ready,
//! and workers bring back what they hold.
//!
//! A task is a range of rows, cut when a worker asks, as large as that worker does in a few seconds. Who
//! may have one is for [`Terms`] to say: jobs of higher priority first, of one priority the one with the
//! fewest tasks under way.
//!
//! What always holds: a row is recorded under one attempt; what comes under another attempt than the
//! one that holds the task is told to stop or forgotten; rows that nobody works on are ready; a task
//! that fails or loses its worker too often is split, and a row that does is given up, so every job ends.

mod queries;
mod ranges;
#[cfg(test)]
mod simulation;
mod sync;
mod terms;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{AttemptId, JobId, RowRange};
use queries::Query;
use ranges::{Piece, Ready};
use terms::{FIRST_ROWS, Speed};
pub use terms::{Labels, ModelKey, Resources, TaskSize, Terms};

/// When a lease ends and when a task is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// How long an attempt is held without being named again, in milliseconds.
    pub lease_ms: i64,
    /// Attempts of a task that may fail.
    pub failures_max: u32,
    /// Attempts of a row whose worker may be lost: more than failures, because a worker is mostly lost
    /// for other reasons than the row.
    pub losses_max: u32,
    /// Workers lost with a task, from which on it is split, and a worker that gets it gets nothing beside
    /// it: what it may kill the worker for is not for another task to answer for.
    pub losses_whole: u32,
    /// Rows of a job given up one after the other, after which tasks that fail are not split any more:
    /// it is not for their rows.
    pub hopeless_rows: u32,
    /// Wait before a task that failed is tried again, in milliseconds; doubled at each failure.
    pub retry_ms: i64,
    /// When a worker that is silent is forgotten, in milliseconds.
    pub forget_ms: i64,
    /// How long a task should take, in milliseconds.
    pub task_ms: i64,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        SchedulerLimits {
            lease_ms: 20_000,
            failures_max: 3,
            losses_max: 20,
            losses_whole: 3,
            hopeless_rows: 32,
            retry_ms: 500,
            forget_ms: 120_000,
            task_ms: 3_000,
        }
    }
}

/// How the error of a task begins whose workers were all lost.
pub(crate) const LOST_TOO_OFTEN: &str = "its worker was lost";

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
    /// How long it computed what it has done, in milliseconds, where it says so.
    pub took_ms: BTreeMap<AttemptId, u32>,
    /// What failed, why, and whether another attempt may succeed.
    pub failed: Vec<(AttemptId, String, bool)>,
    /// What it can run.
    pub models: Vec<ModelKey>,
    /// Its labels.
    pub labels: Labels,
    /// What it has.
    pub resources: Resources,
    /// Whether it takes nothing more and gives back what it runs.
    pub leaving: bool,
}

/// Rows of a group that are to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRows {
    /// The group.
    pub group: u32,
    /// Its first row; no task has rows of two groups.
    pub first: u64,
    /// Where its rows begin that are to be done, and the row after each such run.
    pub open: Vec<(u64, u64)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// There is a job.
    AddJob {
        /// The job.
        job: JobId,
        /// What it asks for.
        terms: Terms,
    },
    /// A job has more rows; numbers of rows are never used twice in a job.
    AddRows {
        /// The job.
        job: JobId,
        /// By group.
        groups: Vec<GroupRows>,
    },
    /// Tasks of a job whose size is measured may have at most so many rows.
    BoundRows(JobId, u32),
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
    /// All rows of a group are recorded.
    GroupDone(JobId, u32),
    /// A query has its vector, or why it has none.
    Answer(JobId, Result<Vec<f32>, String>),
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Held {
        instance: String,
        until_ms: i64,
    },
    /// With the worker that waits to hear of it, in the answer to its report.
    Recording {
        for_whom: Option<String>,
    },
}

/// Rows that a worker has, or that are being recorded.
#[derive(Debug, Clone)]
struct Task {
    state: State,
    attempt: u64,
    since_ms: i64,
    failures: u32,
    losses: u32,
    is_given_up: bool,
}

/// A group that is not recorded whole.
#[derive(Debug)]
struct Open {
    group: u32,
    rows: u64,
}

#[derive(Debug)]
struct Job {
    terms: Terms,
    is_paused: bool,
    ready: Ready,
    /// Tasks that are held or being recorded.
    tasks: BTreeMap<u64, Task>,
    held: usize,
    /// Groups with rows that are not recorded, by their first row.
    open: BTreeMap<u64, Open>,
    /// Attempts whose results are durable, by task.
    staged: BTreeMap<u64, u64>,
    /// How many of its tasks each worker has.
    workers: BTreeMap<String, usize>,
    /// Rows given up since the last that were done.
    hopeless: u32,
    retries: u64,
    /// Where it stands in its queue.
    queued: Option<Turn>,
}

/// Whose turn it is: the lowest.
type Turn = (Reverse<i32>, usize);

#[derive(Debug, Default)]
struct Worker {
    seen_ms: i64,
    held: BTreeSet<(JobId, u64)>,
    /// How many of them lost so many workers that they are done alone.
    suspects: usize,
    used: Resources,
    has: Resources,
    labels: Labels,
    speeds: BTreeMap<JobId, Speed>,
}

/// How far a job's tasks are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Nobody has them; of those whose size is measured, pieces that they will be cut from.
    pub ready: usize,
    /// Workers have them.
    pub held: usize,
    /// Rows that nobody has.
    pub rows_ready: u64,
    /// Attempts that failed or lost their worker.
    pub retries: u64,
    /// Processes of workers that have some.
    pub workers: Vec<String>,
}

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    next_attempt: u64,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs with rows to give away, by the name of what they need.
    queues: BTreeMap<String, BTreeSet<(Turn, JobId)>>,
    workers: BTreeMap<String, Worker>,
    /// Workers that left, and when: what they said before and comes late is not heard.
    left: BTreeMap<String, i64>,
    leases: BTreeSet<(i64, JobId, u64)>,
    queries: BTreeMap<JobId, Query>,
    retries: u64,
}

impl Scheduler {
    /// A scheduler without jobs. `start` counts the server's starts on this lake, so that its attempts
    /// are higher than all before.
    pub fn new(limits: SchedulerLimits, start: u32) -> Self {
        Scheduler {
            limits,
            next_attempt: u64::from(start) << 32,
            jobs: BTreeMap::new(),
            queues: BTreeMap::new(),
            workers: BTreeMap::new(),
            left: BTreeMap::new(),
            leases: BTreeSet::new(),
            queries: BTreeMap::new(),
            retries: 0,
        }
    }

    /// Takes what happened at `now_ms`, which never falls, and says what to do. Only reports of workers,
    /// the passing of time and what was written down or not lead to actions; the other events lead to
    /// none.
    pub fn step(&mut self, now_ms: i64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::AddJob { job, terms } => {
                self.jobs.entry(job).or_insert_with(|| Job::new(terms));
            }
            Event::AddRows { job, groups } => self.add_rows(&job, groups),
            Event::BoundRows(job, bound) => {
                if let Some(job) = self.jobs.get_mut(&job)
                    && let TaskSize::Measured { rows_max } = &mut job.terms.size
                {
                    *rows_max = bound.clamp(1, *rows_max);
                }
            }
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
                    && let Some(job) = self.jobs.get_mut(&attempt.job)
                {
                    job.staged.insert(attempt.task, attempt.attempt);
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
        let Some(job) = self.jobs.get(&attempt.job) else { return false };
        match job.tasks.get(&attempt.task) {
            Some(Task { state: State::Held { .. }, attempt: holds, .. }) => {
                *holds == attempt.attempt
            }
            Some(_) => false,
            None => self.may_take_up(job, attempt),
        }
    }

    /// Whether an attempt may have a task that nobody has.
    fn may_take_up(&self, job: &Job, attempt: &AttemptId) -> bool {
        let piece = job.ready.find(attempt.range());
        attempt.attempt <= self.next_attempt
            && piece.is_some_and(|piece| piece.may_take_up(attempt.attempt))
    }

    /// How far the tasks of a job are.
    pub fn counts(&self, job: &JobId) -> TaskCounts {
        let Some(job) = self.jobs.get(job) else { return TaskCounts::default() };
        let rows = match job.terms.size {
            TaskSize::Fixed(rows) => rows,
            TaskSize::Measured { rows_max } => rows_max,
        };
        TaskCounts {
            ready: job.ready.tasks(rows),
            held: job.held,
            rows_ready: job.ready.rows(),
            retries: job.retries,
            workers: job.workers.keys().cloned().collect(),
        }
    }

    fn add_rows(&mut self, job_id: &JobId, groups: Vec<GroupRows>) {
        let Some(job) = self.jobs.get_mut(job_id) else { return };
        for GroupRows { group, first, open } in groups {
            let rows = open.iter().map(|(first, end)| end.saturating_sub(*first)).sum();
            if rows == 0 || job.open.contains_key(&first) {
                continue;
            }
            job.open.insert(first, Open { group, rows });
            for (first, end) in open {
                job.ready.add(first, Piece { end, ..Piece::default() });
            }
        }
        self.queue(job_id);
    }

    fn set_paused(&mut self, job_id: &JobId, is_paused: bool) {
        if let Some(job) = self.jobs.get_mut(job_id) {
            job.is_paused = is_paused;
        }
        self.queue(job_id);
    }

    /// Puts a job where it belongs among those that wait for workers. Said after each change of what it
    /// holds, of its rows that are ready, and of whether it is paused.
    fn queue(&mut self, job_id: &JobId) {
        let Some(job) = self.jobs.get_mut(job_id) else { return };
        let has_turn = !job.is_paused && !job.ready.is_empty();
        let turn = has_turn.then_some((Reverse(job.terms.priority), job.held));
        let before = std::mem::replace(&mut job.queued, turn);
        if before == turn {
            return;
        }
        let queue = self.queues.entry(job.terms.model.name.clone()).or_default();
        if let Some(before) = before {
            queue.remove(&(before, job_id.clone()));
        }
        if let Some(turn) = turn {
            queue.insert((turn, job_id.clone()));
        }
    }

    fn remove(&mut self, job_id: &JobId) {
        let Some(job) = self.jobs.remove(job_id) else { return };
        if let (Some(turn), Some(queue)) = (job.queued, self.queues.get_mut(&job.terms.model.name))
        {
            queue.remove(&(turn, job_id.clone()));
            if queue.is_empty() {
                self.queues.remove(&job.terms.model.name);
            }
        }
        for (task, found) in job.tasks {
            let State::Held { instance, until_ms } = found.state else { continue };
            self.leases.remove(&(until_ms, job_id.clone(), task));
            if let Some(worker) = self.workers.get_mut(&instance) {
                worker.held.remove(&(job_id.clone(), task));
                let is_alone = found.losses >= self.limits.losses_whole;
                worker.suspects = worker.suspects.saturating_sub(is_alone.into());
                worker.used.less(&job.terms.resources);
            }
        }
        for worker in self.workers.values_mut() {
            worker.speeds.remove(job_id);
        }
    }

    /// Takes back what was held too long, and forgets who was silent too long.
    fn expire(&mut self, now_ms: i64, actions: &mut Vec<Action>) {
        while let Some((until_ms, job, task)) = self.leases.first().cloned()
            && until_ms < now_ms
        {
            let Some(mut found) = self.release(&job, task) else {
                self.leases.pop_first();
                continue;
            };
            found.losses += 1;
            let attempt = AttemptId { job, task, attempt: found.attempt };
            self.count_retry(&attempt.job);
            if found.losses >= self.limits.losses_max {
                let error = format!("{LOST_TOO_OFTEN} {} times", found.losses);
                self.give_up(attempt, found, error, actions);
            } else if found.losses >= self.limits.losses_whole && !self.is_hopeless(&attempt.job) {
                self.split(&attempt, found, now_ms, false);
            } else {
                self.put_back(&attempt, found, now_ms, false);
            }
        }
        let forget_ms = self.limits.forget_ms;
        self.workers.retain(|_, worker| {
            !worker.held.is_empty() || worker.seen_ms.saturating_add(forget_ms) >= now_ms
        });
        self.left.retain(|_, left_ms| left_ms.saturating_add(forget_ms) >= now_ms);
        self.expire_queries(now_ms);
    }

    /// Whether so many rows of a job were given up that it is not for the rows.
    fn is_hopeless(&self, job: &JobId) -> bool {
        self.jobs.get(job).is_some_and(|job| job.hopeless >= self.limits.hopeless_rows)
    }

    /// Attempts of all jobs that failed or lost their worker.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    fn count_retry(&mut self, job: &JobId) {
        self.retries += 1;
        if let Some(job) = self.jobs.get_mut(job) {
            job.retries += 1;
        }
    }

    /// Takes a task from whoever holds it. It belongs to nobody then: the caller puts it back, or has it
    /// recorded.
    fn release(&mut self, job_id: &JobId, task: u64) -> Option<Task> {
        let job = self.jobs.get_mut(job_id)?;
        let State::Held { instance, until_ms } = job.tasks.get(&task)?.state.clone() else {
            return None;
        };
        let found = job.tasks.remove(&task)?;
        job.held -= 1;
        if let Some(held) = job.workers.get_mut(&instance) {
            *held -= 1;
            if *held == 0 {
                job.workers.remove(&instance);
            }
        }
        let resources = job.terms.resources;
        self.leases.remove(&(until_ms, job_id.clone(), task));
        if let Some(worker) = self.workers.get_mut(&instance) {
            worker.held.remove(&(job_id.clone(), task));
            let is_alone = found.losses >= self.limits.losses_whole;
            worker.suspects = worker.suspects.saturating_sub(is_alone.into());
            worker.used.less(&resources);
        }
        self.queue(job_id);
        Some(found)
    }

    /// Makes the rows of a task ready that was released.
    fn put_back(&mut self, attempt: &AttemptId, task: Task, ready_ms: i64, is_over: bool) {
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let range = attempt.range();
        let Task { failures, losses, attempt: number, .. } = task;
        let piece =
            Piece { end: range.end(), ready_ms, failures, losses, attempt: number, is_over };
        job.ready.add(range.first, piece);
        self.queue(&attempt.job);
    }

    /// The same as two halves, so that a row that is to blame is alone in the end. What fails once more is
    /// split again.
    fn split(&mut self, attempt: &AttemptId, task: Task, ready_ms: i64, is_over: bool) {
        let range = attempt.range();
        if range.rows < 2 {
            return self.put_back(attempt, task, ready_ms, is_over);
        }
        let failures = task.failures.min(self.limits.failures_max - 1);
        let first = RowRange { first: range.first, rows: range.rows / 2 };
        let second = RowRange { first: first.end(), rows: range.rows - first.rows };
        for half in [first, second] {
            let attempt = AttemptId { task: half.task(), ..attempt.clone() };
            // Nobody was given the halves, so nobody takes them up again.
            self.put_back(&attempt, Task { failures, ..task.clone() }, ready_ms, true);
        }
    }

    /// Gives rows that nobody has to a worker under an attempt. They were taken out of what is ready.
    fn hold(&mut self, now_ms: i64, instance: &str, attempt: &AttemptId, piece: Piece) {
        let until_ms = now_ms.saturating_add(self.limits.lease_ms);
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let state = State::Held { instance: instance.to_owned(), until_ms };
        let (number, failures, losses) = (attempt.attempt, piece.failures, piece.losses);
        let task =
            Task { state, attempt: number, since_ms: now_ms, failures, losses, is_given_up: false };
        job.tasks.insert(attempt.task, task);
        job.held += 1;
        *job.workers.entry(instance.to_owned()).or_default() += 1;
        let resources = job.terms.resources;
        self.leases.insert((until_ms, attempt.job.clone(), attempt.task));
        if let Some(worker) = self.workers.get_mut(instance) {
            worker.held.insert((attempt.job.clone(), attempt.task));
            worker.suspects += usize::from(losses >= self.limits.losses_whole);
            worker.used.add(&resources);
        }
        self.queue(&attempt.job);
    }

    /// Moves a task that was released to those that are being recorded.
    fn start_recording(&mut self, attempt: &AttemptId, task: Task, for_whom: Option<String>) {
        if let Some(job) = self.jobs.get_mut(&attempt.job) {
            let state = State::Recording { for_whom };
            job.tasks.insert(attempt.task, Task { state, ..task });
        }
    }

    fn give_up(
        &mut self,
        attempt: AttemptId,
        task: Task,
        error: String,
        actions: &mut Vec<Action>,
    ) {
        self.start_recording(&attempt, Task { is_given_up: true, ..task }, None);
        actions.push(Action::GiveUp(attempt, error));
    }

    /// A task that is being recorded under this attempt, taken out of those that are.
    fn take_recording(&mut self, attempt: &AttemptId) -> Option<(&mut Job, Task)> {
        let job = self.jobs.get_mut(&attempt.job)?;
        let task = job.tasks.get(&attempt.task)?;
        let is_recording = matches!(task.state, State::Recording { .. });
        if !is_recording || task.attempt != attempt.attempt {
            return None;
        }
        let task = job.tasks.remove(&attempt.task)?;
        Some((job, task))
    }

    fn recorded(&mut self, attempt: &AttemptId, actions: &mut Vec<Action>) {
        let range = attempt.range();
        let Some((job, task)) = self.take_recording(attempt) else { return };
        job.staged.remove(&attempt.task);
        if let State::Recording { for_whom: Some(instance) } = task.state {
            actions.push(Action::Forget { instance, attempt: attempt.clone() });
        }
        job.hopeless = match task.is_given_up {
            true => job.hopeless.saturating_add(range.rows),
            false => 0,
        };
        let Some((first, open)) = job.open.range_mut(..=range.first).next_back() else { return };
        open.rows = open.rows.saturating_sub(u64::from(range.rows));
        if open.rows == 0 {
            let (first, group) = (*first, open.group);
            job.open.remove(&first);
            actions.push(Action::GroupDone(attempt.job.clone(), group));
        }
    }

    fn record_failed(&mut self, now_ms: i64, attempt: &AttemptId) {
        let retry_ms = now_ms.saturating_add(self.limits.retry_ms);
        let Some((job, task)) = self.take_recording(attempt) else { return };
        // Results that came with a report are gone.
        job.staged.remove(&attempt.task);
        self.put_back(attempt, Task { is_given_up: false, ..task }, retry_ms, false);
    }
}

impl Job {
    fn new(terms: Terms) -> Self {
        Job {
            terms,
            is_paused: false,
            ready: Ready::default(),
            tasks: BTreeMap::new(),
            held: 0,
            open: BTreeMap::new(),
            staged: BTreeMap::new(),
            workers: BTreeMap::new(),
            hopeless: 0,
            retries: 0,
            queued: None,
        }
    }

    /// How many rows the next task has that a worker gets.
    fn rows_for(&self, instance: &str, speed: Option<&Speed>, task_ms: i64) -> u32 {
        let rows_max = match self.terms.size {
            TaskSize::Fixed(rows) => return rows.clamp(1, RowRange::ROWS_MAX),
            TaskSize::Measured { rows_max } => rows_max.clamp(1, RowRange::ROWS_MAX),
        };
        let wanted = speed.map_or(FIRST_ROWS, |speed| speed.rows_in(task_ms));
        // The last rows of a job are shared out, so that nobody is left with much when others have none.
        let others = self.workers.keys().filter(|it| *it != instance).count() as u64;
        let share = self.ready.rows() / (2 * (others + 1));
        let share = u32::try_from(share).unwrap_or(u32::MAX).max(FIRST_ROWS);
        wanted.min(share).min(rows_max)
    }
}
