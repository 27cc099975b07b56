//! One report of a worker: what it holds is renewed or stopped, what it ended is recorded, what was not
//! heard is said again, and free slots are filled.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, ModelKey, Scheduler, Speed, State, Task, Worker, WorkerSync};
use crate::ids::{AttemptId, JobId};

/// What an attempt that a worker names is to the scheduler.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// The worker has its task.
    Holds,
    /// The task is recorded, or about to be, under this very attempt.
    Ended,
    /// Somebody else has it, or it is unknown.
    Stale,
}

impl Scheduler {
    pub(super) fn sync(&mut self, now_ms: i64, sync: WorkerSync, actions: &mut Vec<Action>) {
        let WorkerSync { instance, slots, running, done, failed, models, leaving, .. } = sync;
        if self.left.contains_key(&instance) {
            // Said before it left: it holds nothing and gets nothing.
            let ended = done.into_iter().map(|(attempt, _)| attempt);
            for attempt in ended.chain(failed.into_iter().map(|(attempt, ..)| attempt)) {
                actions.push(Action::Forget { instance: instance.clone(), attempt });
            }
            for attempt in running {
                actions.push(Action::Stop { instance: instance.clone(), attempt });
            }
            return;
        }
        let worker = self.workers.entry(instance.clone()).or_default();
        worker.seen_ms = now_ms;
        (worker.labels, worker.has) = (sync.labels, sync.resources);

        let mut work = BTreeMap::new();
        for (attempt, vector) in done {
            if !self.end_query(&attempt.job, Ok(vector), actions) {
                let took_ms = sync.took_ms.get(&attempt).copied();
                self.done(now_ms, &instance, attempt, took_ms, &mut work, actions);
            } else {
                actions.push(Action::Forget { instance: instance.clone(), attempt });
            }
        }
        self.measure(now_ms, &instance, work);
        for (attempt, error, is_retryable) in failed {
            if !self.end_query(&attempt.job, Err(error.clone()), actions) {
                self.failed(now_ms, &instance, &attempt, error, is_retryable, actions);
            }
            actions.push(Action::Forget { instance: instance.clone(), attempt });
        }
        let mut named = BTreeSet::new();
        for attempt in running {
            if leaving {
                if self.claim(now_ms, &instance, &attempt) == Claim::Holds {
                    self.give_back(now_ms, &attempt.job, attempt.task);
                }
            } else if self.renew_query(now_ms, &instance, &attempt.job) {
                named.insert((attempt.job, attempt.task));
            } else if self.claim(now_ms, &instance, &attempt) == Claim::Holds {
                self.renew(now_ms, &attempt);
                named.insert((attempt.job, attempt.task));
            } else {
                actions.push(Action::Stop { instance: instance.clone(), attempt });
            }
        }
        if leaving {
            let held = self.workers.get(&instance).map(|worker| worker.held.clone());
            for (job, task) in held.into_iter().flatten() {
                self.give_back(now_ms, &job, task);
            }
            self.workers.remove(&instance);
            self.left.insert(instance, now_ms);
            return;
        }
        self.repeat_queries(&instance, &models, &named, actions);
        self.assign_queries(now_ms, &instance, &models, actions);
        self.repeat(&instance, &named, actions);
        self.assign(now_ms, &instance, slots, &models, actions);
    }

    /// Gives a worker that waits what there is; nothing when it left meanwhile.
    pub(super) fn wait(
        &mut self,
        now_ms: i64,
        instance: &str,
        slots: u32,
        models: &[ModelKey],
        actions: &mut Vec<Action>,
    ) {
        if let Some(worker) = self.workers.get_mut(instance) {
            worker.seen_ms = now_ms;
            self.assign_queries(now_ms, instance, models, actions);
            self.assign(now_ms, instance, slots, models, actions);
        }
    }

    /// What an attempt is; rows that nobody has and that it may have are taken up again.
    fn claim(&mut self, now_ms: i64, instance: &str, attempt: &AttemptId) -> Claim {
        let Some(job) = self.jobs.get(&attempt.job) else { return Claim::Stale };
        if let Some(task) = job.tasks.get(&attempt.task) {
            let is_same = task.attempt == attempt.attempt;
            return match &task.state {
                State::Held { instance: holder, .. } if is_same && holder == instance => {
                    Claim::Holds
                }
                State::Recording { .. } if is_same => Claim::Ended,
                _ => Claim::Stale,
            };
        }
        // After a restart of the server, or when its lease ran out and nobody else got them.
        if !self.may_take_up(job, attempt) {
            return Claim::Stale;
        }
        let job = self.jobs.get_mut(&attempt.job);
        let Some(piece) = job.and_then(|job| job.ready.carve(attempt.range())) else {
            return Claim::Stale;
        };
        self.hold(now_ms, instance, attempt, piece);
        Claim::Holds
    }

    /// Takes a task from its attempt for good; its rows are ready at `ready_ms`.
    fn give_back(&mut self, ready_ms: i64, job: &JobId, task: u64) {
        if let Some(found) = self.release(job, task) {
            let attempt = AttemptId { job: job.clone(), task, attempt: found.attempt };
            self.put_back(&attempt, found, ready_ms, true);
        }
    }

    fn renew(&mut self, now_ms: i64, attempt: &AttemptId) {
        let until_new_ms = now_ms.saturating_add(self.limits.lease_ms);
        let job = self.jobs.get_mut(&attempt.job);
        let Some(task) = job.and_then(|job| job.tasks.get_mut(&attempt.task)) else { return };
        if let State::Held { until_ms, .. } = &mut task.state
            && *until_ms != until_new_ms
        {
            let old = std::mem::replace(until_ms, until_new_ms);
            self.leases.remove(&(old, attempt.job.clone(), attempt.task));
            self.leases.insert((until_new_ms, attempt.job.clone(), attempt.task));
        }
    }

    fn done(
        &mut self,
        now_ms: i64,
        instance: &str,
        attempt: AttemptId,
        took_ms: Option<u32>,
        work: &mut BTreeMap<JobId, Work>,
        actions: &mut Vec<Action>,
    ) {
        match self.claim(now_ms, instance, &attempt) {
            Claim::Holds => {
                let job = self.jobs.get(&attempt.job);
                let staged = job.and_then(|job| job.staged.get(&attempt.task));
                if staged != Some(&attempt.attempt) {
                    // It says so and put nothing: somebody has to do it again.
                    self.give_back(now_ms, &attempt.job, attempt.task);
                    actions.push(Action::Forget { instance: instance.to_owned(), attempt });
                } else if let Some(task) = self.release(&attempt.job, attempt.task) {
                    work.entry(attempt.job.clone()).or_default().add(&attempt, &task, took_ms);
                    self.start_recording(&attempt, task, Some(instance.to_owned()));
                    actions.push(Action::Record(attempt));
                }
            }
            // The report that is being recorded is answered then, and a later one after it.
            Claim::Ended => {}
            Claim::Stale => {
                actions.push(Action::Forget { instance: instance.to_owned(), attempt });
            }
        }
    }

    /// Notes how fast a worker did what it reports.
    fn measure(&mut self, now_ms: i64, instance: &str, work: BTreeMap<JobId, Work>) {
        let Some(worker) = self.workers.get_mut(instance) else { return };
        for (job, Work { rows, largest, since_ms, told_ms }) in work {
            let before = worker.speeds.get(&job).copied();
            // What it holds beside lies ready while it computes: its time began when the one before ended.
            let since_ms = before.map_or(since_ms, |before| before.ended_ms.max(since_ms));
            let took_ms = match told_ms {
                Some(told_ms) => i64::try_from(told_ms).unwrap_or(i64::MAX),
                None => now_ms.saturating_sub(since_ms),
            };
            let speed = Speed::measure(before, now_ms, rows, took_ms, largest);
            worker.speeds.insert(job, speed);
        }
    }

    fn failed(
        &mut self,
        now_ms: i64,
        instance: &str,
        attempt: &AttemptId,
        error: String,
        is_retryable: bool,
        actions: &mut Vec<Action>,
    ) {
        if self.claim(now_ms, instance, attempt) != Claim::Holds {
            return;
        }
        let Some(mut task) = self.release(&attempt.job, attempt.task) else { return };
        task.failures += 1;
        let retry_ms = self.limits.retry_ms.saturating_mul(1 << task.failures.min(10));
        let ready_ms = now_ms.saturating_add(retry_ms);
        let is_last = task.failures >= self.limits.failures_max
            && (attempt.range().rows == 1 || self.is_hopeless(&attempt.job));
        if !is_retryable || is_last {
            return self.give_up(attempt.clone(), task, error, actions);
        }
        self.count_retry(&attempt.job);
        match task.failures >= self.limits.failures_max {
            // What it failed at is looked for now; it has waited before.
            true => {
                self.split(attempt, task, now_ms.saturating_add(self.limits.retry_ms), true);
            }
            false => self.put_back(attempt, task, ready_ms, true),
        }
    }

    /// Says again what the worker holds and did not name: the answer that told it was lost. Its lease
    /// is not renewed, so a worker that never hears of it loses it.
    fn repeat(
        &mut self,
        instance: &str,
        named: &BTreeSet<(JobId, u64)>,
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get(instance) else { return };
        for held in worker.held.difference(named) {
            let (job_id, id) = held;
            let Some(job) = self.jobs.get(job_id) else { continue };
            let Some(task) = job.tasks.get(id) else { continue };
            actions.push(Action::Assign {
                instance: instance.to_owned(),
                attempt: AttemptId { job: job_id.clone(), task: *id, attempt: task.attempt },
                model: job.terms.model.clone(),
            });
        }
    }

    /// Fills the free slots, each from the job whose turn it is.
    fn assign(
        &mut self,
        now_ms: i64,
        instance: &str,
        slots: u32,
        models: &[ModelKey],
        actions: &mut Vec<Action>,
    ) {
        let names: BTreeSet<&str> = models.iter().map(|model| model.name.as_str()).collect();
        loop {
            let Some(worker) = self.workers.get(instance) else { return };
            if worker.held.len() >= slots as usize || worker.suspects > 0 {
                return;
            }
            let turns = names.iter().filter_map(|name| {
                let mut queue = self.queues.get(*name)?.iter();
                queue.find_map(|(turn, id)| {
                    let next = self.next_for(now_ms, instance, worker, id, models)?;
                    Some((*turn, id.clone(), next))
                })
            });
            let next = turns.min_by(|(a, id_a, _), (b, id_b, _)| (a, id_a).cmp(&(b, id_b)));
            let Some((_, id, (first, model))) = next else { return };
            let losses = self.jobs.get(&id).map_or(0, |job| job.ready.losses(first));
            if losses >= self.limits.losses_whole && !worker.held.is_empty() {
                // Done alone, as soon as the worker has ended what it has.
                return;
            }
            let rows = self.jobs.get(&id).map_or(1, |job| {
                job.rows_for(instance, worker.speeds.get(&id), self.limits.task_ms)
            });
            let Some(job) = self.jobs.get_mut(&id) else { return };
            if job.terms.model != model {
                // Of the same name, so its queue stays.
                job.terms.model = model.clone();
                actions.push(Action::ChooseModel(id.clone(), model.clone()));
            }
            let Some((range, piece)) = job.ready.cut(first, rows) else { return };
            self.next_attempt += 1;
            let attempt = AttemptId { job: id, task: range.task(), attempt: self.next_attempt };
            self.hold(now_ms, instance, &attempt, piece);
            actions.push(Action::Assign { instance: instance.to_owned(), attempt, model });
        }
    }

    /// Where the next task of a job begins, and the model that does it, if this worker may have one.
    fn next_for(
        &self,
        now_ms: i64,
        instance: &str,
        worker: &Worker,
        job: &JobId,
        models: &[ModelKey],
    ) -> Option<(u64, ModelKey)> {
        let job = self.jobs.get(job)?;
        let terms = &job.terms;
        let is_one_more = !job.workers.contains_key(instance);
        let is_full = terms.workers_max.is_some_and(|most| job.workers.len() >= most as usize);
        if (is_one_more && is_full)
            || !terms.are_met_by(&worker.labels)
            || !worker.has.has(&worker.used, &terms.resources)
        {
            return None;
        }
        let model = models.iter().find(|it| terms.model.is_met_by(it))?;
        Some((job.ready.next(now_ms)?, model.clone()))
    }
}

/// What a worker says in one report to have done of a job.
#[derive(Debug, Default)]
struct Work {
    rows: u64,
    largest: u32,
    /// When the first of it was given to it.
    since_ms: i64,
    /// How long it took, where it says that of all.
    told_ms: Option<u64>,
}

impl Work {
    fn add(&mut self, attempt: &AttemptId, task: &Task, took_ms: Option<u32>) {
        let rows = attempt.range().rows;
        let took_ms = took_ms.filter(|took_ms| *took_ms > 0).map(u64::from);
        (self.since_ms, self.told_ms) = match self.rows {
            0 => (task.since_ms, took_ms),
            _ => (
                self.since_ms.min(task.since_ms),
                self.told_ms.zip(took_ms).map(|(before, took)| before + took),
            ),
        };
        self.rows += u64::from(rows);
        self.largest = self.largest.max(rows);
    }
}
