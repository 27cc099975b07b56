//! Carries out what the scheduler says, until nothing of it is left but what a worker is to be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{AttemptId, JobId};
use crate::ledger::Record;
use crate::runtime::{ColumnJobs, Ended};
use crate::scheduler::{Action, Event, ModelKey};

/// A record, and the attempt whose end it is.
type Write = (Record, AttemptId);

impl ColumnJobs {
    /// Carries out actions; returns those that are for workers.
    pub(crate) async fn perform(self: &Arc<Self>, actions: Vec<Action>) -> Vec<Action> {
        let mut told = Vec::new();
        let mut left = actions;
        while !left.is_empty() {
            let mut writes: BTreeMap<JobId, Vec<Write>> = BTreeMap::new();
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
                        let errors = self.errors_of(&attempt);
                        let AttemptId { task, attempt: number, .. } = attempt;
                        let record = Record::Done { task, attempt: number, errors };
                        writes.entry(attempt.job.clone()).or_default().push((record, attempt));
                    }
                    Action::GiveUp(attempt, error) => {
                        let record = Record::GaveUp { task: attempt.task, error };
                        writes.entry(attempt.job.clone()).or_default().push((record, attempt));
                    }
                    Action::ChooseModel(job, model) => {
                        if let Some(evaluating) = self.evaluating(&job) {
                            evaluating.choose(model);
                            continue;
                        }
                        if let Some(run) = self.find(&job) {
                            let mut state = run.state();
                            (state.model, state.is_model_new) = (Some(model), true);
                        }
                        writes.entry(job).or_default();
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
            for (job, writes) in writes {
                left.append(&mut self.write_down(&job, writes).await);
            }
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

    fn errors_of(&self, attempt: &AttemptId) -> u64 {
        let run = self.find(&attempt.job);
        let staged = (attempt.task, attempt.attempt);
        run.and_then(|run| run.state().staged.get(&staged).copied()).unwrap_or(0)
    }

    async fn write_down(&self, job: &JobId, writes: Vec<Write>) -> Vec<Action> {
        let Some(run) = self.find(job) else { return Vec::new() };
        let new_model = {
            let state = run.state();
            state.model.clone().filter(|_| state.is_model_new)
        };
        // Before anything that was made with it, and again if it could not be written.
        let model = new_model.map(|ModelKey { name, digest }| Record::Model { name, digest });
        let ends = writes.iter().map(|(record, _)| record.clone());
        let records: Vec<Record> = model.into_iter().chain(ends).collect();
        if records.is_empty() {
            return Vec::new();
        }
        let outcome = run.ledger.append(&records).await;
        if outcome.is_ok() {
            run.state().is_model_new = false;
        }
        let mut actions = Vec::new();
        for (record, attempt) in writes {
            if outcome.is_err() {
                actions.append(&mut self.step(Event::RecordFailed(attempt)));
                continue;
            }
            let rows = run.pass().and_then(|pass| pass.rows_of(attempt.task)).unwrap_or(0);
            let (ended, errors) = match record {
                Record::Done { attempt, errors, .. } => (Ended::Part { attempt, errors }, errors),
                Record::GaveUp { error, .. } => (Ended::GivenUp(error), rows),
                _ => continue,
            };
            {
                let mut state = run.state();
                state.has_given_up |= matches!(ended, Ended::GivenUp(_));
                state.ended.insert(attempt.task, ended);
                state.staged.retain(|(task, _), _| *task != attempt.task);
                state.rows_done += rows;
                state.errors += errors;
            }
            metrics::counter!("lakebed_job_rows_total").increment(rows);
            actions.append(&mut self.step(Event::Recorded(attempt)));
        }
        if let Err(error) = outcome {
            tracing::warn!(%job, error = %error.report(), "the end of tasks was not written down");
        }
        actions
    }
}
