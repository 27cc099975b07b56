//! Carries out what the scheduler says, until nothing of it is left but what a worker is to be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;

use crate::ids::{AttemptId, JobId};
use crate::ledger::{Inline, Record};
use crate::runtime::{ColumnJobs, Ended, EndedRows, Running};
use crate::scheduler::{Action, Event, ModelKey};

/// How a task ends.
enum End {
    /// Its results are in a part, so many of them errors.
    Part(u64),
    /// Its results are written down with it.
    Inline(Inline),
    GivenUp(String),
}

impl ColumnJobs {
    /// Carries out actions; returns those that are for workers.
    pub(crate) async fn perform(self: &Arc<Self>, actions: Vec<Action>) -> Vec<Action> {
        let mut told = Vec::new();
        let mut left = actions;
        while !left.is_empty() {
            let mut writes: BTreeMap<JobId, Vec<(End, AttemptId)>> = BTreeMap::new();
            for action in std::mem::take(&mut left) {
                match action {
                    Action::Assign { .. } | Action::Stop { .. } | Action::Forget { .. } => {
                        told.push(action);
                    }
                    Action::Record(attempt) if self.is_evaluation(&attempt) => {
                        left.append(&mut self.answer_task(attempt, None));
                    }
                    Action::GiveUp(attempt, error) if self.is_evaluation(&attempt) => {
                        left.append(&mut self.answer_task(attempt, Some(&error)));
                    }
                    Action::Record(attempt) => {
                        let end = self.end_of(&attempt);
                        writes.entry(attempt.job.clone()).or_default().push((end, attempt));
                    }
                    Action::GiveUp(attempt, error) => {
                        let end = End::GivenUp(error);
                        writes.entry(attempt.job.clone()).or_default().push((end, attempt));
                    }
                    Action::ChooseModel(job, model) => {
                        if let Some(evaluating) = self.evaluating(&job) {
                            evaluating.choose(model);
                            continue;
                        }
                        if let Some(run) = self.find(&job) {
                            run.state().model = Some(model.clone());
                            // Written before all that is made with it: whoever waits for that has this
                            // written, too.
                            let ModelKey { name, digest } = model;
                            run.ledger.queue(vec![Record::Model { name, digest }], Vec::new());
                        }
                    }
                    Action::GroupDone(job, group) => {
                        if let Some(run) = self.find(&job) {
                            // Nobody listens any more when the job has just ended.
                            let _ = run.groups.send(group);
                        }
                    }
                    Action::Answer(query, outcome) => self.answer(&query, outcome),
                }
            }
            // Each job has a ledger of its own.
            let writes = writes.into_iter().map(|(job, ends)| self.write_down(job, ends));
            left.extend(join_all(writes).await.into_iter().flatten());
        }
        told
    }

    /// Gives whoever waits for a task of an evaluation what became of it.
    fn answer_task(&self, attempt: AttemptId, error: Option<&str>) -> Vec<Action> {
        if let Some(evaluating) = self.evaluating(&attempt.job) {
            match error {
                None => evaluating.done(&attempt),
                Some(error) => evaluating.gave_up(&attempt, error),
            }
        }
        self.step(Event::Recorded(attempt))
    }

    fn end_of(&self, attempt: &AttemptId) -> End {
        let Some(run) = self.find(&attempt.job) else { return End::Part(0) };
        let (mut state, key) = (run.state(), (attempt.task, attempt.attempt));
        match state.inline.remove(&key) {
            Some(inline) => End::Inline(inline),
            None => End::Part(state.staged.get(&key).copied().unwrap_or(0)),
        }
    }

    async fn write_down(&self, job: JobId, ends: Vec<(End, AttemptId)>) -> Vec<Action> {
        let Some(run) = self.find(&job) else { return Vec::new() };
        let (mut records, mut results) = (Vec::new(), Vec::new());
        for (end, AttemptId { task, attempt, .. }) in &ends {
            match end {
                End::Part(errors) => {
                    records.push(Record::Done { task: *task, attempt: *attempt, errors: *errors });
                }
                End::Inline(inline) => results.push(inline.clone()),
                End::GivenUp(error) => {
                    records.push(Record::GaveUp { task: *task, error: error.clone() });
                }
            }
        }
        let ticket = run.ledger.queue(records, results);
        match run.ledger.written(ticket).await {
            Ok(written) => self.ended(&run, ends, |first| written.place_of(first)),
            Err(error) => {
                tracing::warn!(%job, error = %error.report(), "the end of tasks was not written down");
                // Nobody knows whether it was: the job is taken up again from what is there.
                run.is_lost.cancel();
                let failed = ends.into_iter().map(|(_, attempt)| Event::RecordFailed(attempt));
                failed.flat_map(|event| self.step(event)).collect()
            }
        }
    }

    /// Notes that tasks have ended, which is durable.
    fn ended(
        &self,
        run: &Running,
        ends: Vec<(End, AttemptId)>,
        place_of: impl Fn(u64) -> Option<(u64, u64)>,
    ) -> Vec<Action> {
        let (mut actions, mut done, mut given_up) = (Vec::new(), 0, 0);
        {
            let mut state = run.state();
            for (end, attempt) in &ends {
                let range = attempt.range();
                let rows = u64::from(range.rows);
                let (how, errors) = match end {
                    End::Part(errors) => (Ended::Part(attempt.clone()), *errors),
                    End::GivenUp(error) => (Ended::GivenUp(error.clone()), rows),
                    End::Inline(inline) => match place_of(range.first) {
                        Some((number, from)) => (Ended::Segment { number, from }, inline.errors),
                        None => continue,
                    },
                };
                let is_given_up = matches!(how, Ended::GivenUp(_));
                *(if is_given_up { &mut given_up } else { &mut done }) += rows;
                state.has_given_up |= is_given_up;
                state.end(range.first, EndedRows { end: range.end(), errors, how });
                state.staged.remove(&(attempt.task, attempt.attempt));
                state.rows_done += rows;
                state.errors += errors;
            }
        }
        metrics::counter!("lakebed_job_rows_total").increment(done + given_up);
        metrics::counter!("lakebed_job_rows_given_up_total").increment(given_up);
        metrics::counter!("lakebed_job_tasks_total").increment(ends.len() as u64);
        let mut scheduler = self.scheduler();
        let now_ms = self.clock.now_ms();
        for (_, attempt) in ends {
            actions.append(&mut scheduler.step(now_ms, Event::Recorded(attempt)));
        }
        actions
    }
}
