//! One report of a worker: what it holds is renewed or stopped, what it ended is recorded, what was not
//! heard is said again, and free slots are filled.

use super::{Action, ModelKey, Scheduler, State, Worker, WorkerSync};
use crate::ids::AttemptId;

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
        let WorkerSync { instance, slots, running, done, failed, models, leaving } = sync;
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
        let worker = self
            .workers
            .entry(instance.clone())
            .or_insert_with(|| Worker { seen_ms: now_ms, held: Default::default() });
        worker.seen_ms = now_ms;

        for (attempt, vector) in done {
            if !self.end_query(&attempt.job, Ok(vector), actions) {
                self.done(now_ms, &instance, attempt, actions);
            } else {
                actions.push(Action::Forget { instance: instance.clone(), attempt });
            }
        }
        for (attempt, error, is_retryable) in failed {
            if !self.end_query(&attempt.job, Err(error.clone()), actions) {
                self.failed(now_ms, &instance, &attempt, error, is_retryable, actions);
            }
            actions.push(Action::Forget { instance: instance.clone(), attempt });
        }
        let mut named = Vec::new();
        for attempt in running {
            if leaving {
                if self.claim(now_ms, &instance, &attempt) == Claim::Holds {
                    self.give_back(now_ms, &attempt.job, attempt.task);
                }
            } else if self.renew_query(now_ms, &instance, &attempt.job) {
                named.push((attempt.job, attempt.task));
            } else if self.claim(now_ms, &instance, &attempt) == Claim::Holds {
                self.renew(now_ms, &attempt);
                named.push((attempt.job, attempt.task));
            } else {
                actions.push(Action::Stop { instance: instance.clone(), attempt });
            }
        }
        if leaving {
            let held = self.workers.remove(&instance).map(|worker| worker.held);
            for (job, task) in held.into_iter().flatten() {
                self.give_back(now_ms, &job, task);
            }
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

    /// What an attempt is; a ready task that it may have is taken up again.
    fn claim(&mut self, now_ms: i64, instance: &str, attempt: &AttemptId) -> Claim {
        let Some(task) = self.task_mut(attempt) else { return Claim::Stale };
        match &task.state {
            State::Held { instance: holder, .. } => {
                match holder == instance && task.attempt == attempt.attempt {
                    true => Claim::Holds,
                    false => Claim::Stale,
                }
            }
            // After a restart of the server, or when its lease ran out and nobody else got it.
            State::Ready(_) if task.may_take_up(attempt.attempt) => {
                self.hold(now_ms, instance, attempt);
                Claim::Holds
            }
            State::Ready(_) => Claim::Stale,
            State::Recording | State::Done => match task.attempt == attempt.attempt {
                true => Claim::Ended,
                false => Claim::Stale,
            },
        }
    }

    /// Takes a task from its attempt for good; it is ready at `ready_ms`.
    fn give_back(&mut self, ready_ms: i64, job: &crate::ids::JobId, task: u64) {
        if let Some(attempt) = self.release(ready_ms, job, task)
            && let Some(task) = self.task_mut(&attempt)
        {
            task.is_over = true;
        }
    }

    fn renew(&mut self, now_ms: i64, attempt: &AttemptId) {
        let until_new_ms = now_ms.saturating_add(self.limits.lease_ms);
        let Some(task) = self.task_mut(attempt) else { return };
        if let State::Held { until_ms, .. } = &mut task.state {
            let old = std::mem::replace(until_ms, until_new_ms);
            self.leases.remove(&(old, attempt.job.clone(), attempt.task));
            self.leases.insert((until_new_ms, attempt.job.clone(), attempt.task));
        }
    }

    fn done(&mut self, now_ms: i64, instance: &str, attempt: AttemptId, actions: &mut Vec<Action>) {
        let forget = Action::Forget { instance: instance.to_owned(), attempt: attempt.clone() };
        match self.claim(now_ms, instance, &attempt) {
            Claim::Holds => {
                let is_staged =
                    self.task_mut(&attempt).is_some_and(|it| it.staged == Some(attempt.attempt));
                if is_staged {
                    self.release(now_ms, &attempt.job, attempt.task);
                    self.start_recording(&attempt);
                    actions.push(Action::Record(attempt));
                } else {
                    // It says so and put nothing: somebody has to do it again.
                    self.give_back(now_ms, &attempt.job, attempt.task);
                    actions.push(forget);
                }
            }
            Claim::Ended => {
                let is_done = self.task_mut(&attempt).is_some_and(|it| it.state == State::Done);
                if is_done {
                    actions.push(forget);
                }
            }
            Claim::Stale => actions.push(forget),
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
        let Some(task) = self.task_mut(attempt) else { return };
        task.failures += 1;
        let failures = task.failures;
        let wait_ms = self.limits.retry_ms.saturating_mul(1 << failures.min(10));
        self.give_back(now_ms.saturating_add(wait_ms), &attempt.job, attempt.task);
        if !is_retryable || failures >= self.limits.failures_max {
            self.give_up(attempt.clone(), error, actions);
        }
    }

    /// Says again what the worker holds and did not name: the answer that told it was lost. Its lease
    /// is not renewed, so a worker that never hears of it loses it.
    fn repeat(
        &mut self,
        instance: &str,
        named: &[(crate::ids::JobId, u64)],
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get(instance) else { return };
        for (job_id, id) in &worker.held {
            if named.contains(&(job_id.clone(), *id)) {
                continue;
            }
            let Some(job) = self.jobs.get(job_id) else { continue };
            let Some(task) = job.tasks.get(id) else { continue };
            actions.push(Action::Assign {
                instance: instance.to_owned(),
                attempt: AttemptId { job: job_id.clone(), task: *id, attempt: task.attempt },
                model: job.model.clone(),
            });
        }
    }

    /// Fills the free slots, each from the job that has the fewest tasks under way.
    fn assign(
        &mut self,
        now_ms: i64,
        instance: &str,
        slots: u32,
        models: &[ModelKey],
        actions: &mut Vec<Action>,
    ) {
        loop {
            let held = self.workers.get(instance).map_or(0, |worker| worker.held.len());
            if held >= slots as usize {
                return;
            }
            let offered = |wanted: &ModelKey| models.iter().find(|it| wanted.is_met_by(it));
            let next = self
                .jobs
                .iter()
                .filter_map(|(id, job)| {
                    let model = offered(&job.model)?;
                    Some((job.held, id, job.next_ready(now_ms)?, model))
                })
                .min_by_key(|(held, id, _, _)| (*held, (*id).clone()));
            let Some((_, id, task, model)) = next else { return };
            let (id, model) = (id.clone(), model.clone());
            if let Some(job) = self.jobs.get_mut(&id)
                && job.model != model
            {
                job.model = model.clone();
                actions.push(Action::ChooseModel(id.clone(), model.clone()));
            }
            self.next_attempt += 1;
            let attempt = AttemptId { job: id, task, attempt: self.next_attempt };
            self.hold(now_ms, instance, &attempt);
            actions.push(Action::Assign { instance: instance.to_owned(), attempt, model });
        }
    }
}
