//! Queries: single texts or pictures that somebody waits for. They go before all rows, are never tried
//! twice and never written down.

use std::collections::BTreeSet;

use super::{Action, ModelKey, Scheduler};
use crate::ids::{AttemptId, JobId};

/// A query under way.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) model: ModelKey,
    /// Who has it, and until when.
    held: Option<(String, i64)>,
}

impl Query {
    pub(super) fn new(model: ModelKey) -> Self {
        Query { model, held: None }
    }

    fn is_held_by(&self, instance: &str) -> bool {
        self.held.as_ref().is_some_and(|(holder, _)| holder == instance)
    }
}

impl Scheduler {
    /// Queries whose worker went silent go to another one.
    pub(super) fn expire_queries(&mut self, now_ms: i64) {
        for query in self.queries.values_mut() {
            if query.held.as_ref().is_some_and(|(_, until_ms)| *until_ms < now_ms) {
                query.held = None;
            }
        }
    }

    /// Whether an id is a query's. Where the worker that names it has it, it has it for another while: a look
    /// at a function may take minutes.
    pub(super) fn renew_query(&mut self, now_ms: i64, instance: &str, query: &JobId) -> bool {
        let until_new_ms = now_ms.saturating_add(self.limits.lease_ms);
        let Some(query) = self.queries.get_mut(query) else { return false };
        match &mut query.held {
            Some((holder, until_ms)) if holder == instance => *until_ms = until_new_ms,
            _ => {}
        }
        true
    }

    /// Gives waiting queries to a worker, slots or not: they are small and somebody waits.
    pub(super) fn assign_queries(
        &mut self,
        now_ms: i64,
        instance: &str,
        models: &[ModelKey],
        actions: &mut Vec<Action>,
    ) {
        let until_ms = now_ms.saturating_add(self.limits.lease_ms);
        for (id, query) in &mut self.queries {
            let offered = models.iter().find(|model| query.model.is_met_by(model));
            if let Some(model) = offered
                && query.held.is_none()
            {
                query.held = Some((instance.to_owned(), until_ms));
                actions.push(assignment(instance, id, model));
            }
        }
    }

    /// Says again which queries a worker has and did not name.
    pub(super) fn repeat_queries(
        &self,
        instance: &str,
        models: &[ModelKey],
        named: &BTreeSet<(JobId, u64)>,
        actions: &mut Vec<Action>,
    ) {
        for (id, query) in &self.queries {
            let offered = models.iter().find(|model| query.model.is_met_by(model));
            if let Some(model) = offered
                && query.is_held_by(instance)
                && !named.contains(&(id.clone(), 0))
            {
                actions.push(assignment(instance, id, model));
            }
        }
    }

    /// Takes the end of a query; false when the id is not a query's.
    pub(super) fn end_query(
        &mut self,
        query: &JobId,
        outcome: Result<Vec<f32>, String>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let is_known = self.queries.remove(query).is_some();
        if is_known {
            actions.push(Action::Answer(query.clone(), outcome));
        }
        is_known
    }
}

fn assignment(instance: &str, query: &JobId, model: &ModelKey) -> Action {
    Action::Assign {
        instance: instance.to_owned(),
        attempt: AttemptId { job: query.clone(), task: 0, attempt: 0 },
        model: model.clone(),
    }
}
