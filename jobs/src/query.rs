//! Queries: the vector of one text or picture, computed by an attached worker while somebody waits.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::ids::JobId;
use crate::runtime::ColumnJobs;
use crate::scheduler::{Event, ModelKey};

/// What a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryInput {
    /// A text.
    Text(String),
    /// The bytes of a picture.
    Picture(Bytes),
}

/// How long a worker may take: a cold one loads its model first.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Queries that may wait at once.
const WAITING_MAX: usize = 1_024;

/// A query that somebody waits for.
pub(crate) struct PendingQuery {
    pub(crate) input: QueryInput,
    answer: oneshot::Sender<Result<Vec<f32>, String>>,
}

/// Takes the query back when whoever asked goes away.
struct Asked {
    jobs: Arc<ColumnJobs>,
    id: JobId,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.jobs.queries.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.jobs.step(Event::DropQuery(self.id.clone()));
    }
}

impl ColumnJobs {
    /// The vector of a text or picture.
    ///
    /// # Errors
    /// `Unavailable` when no worker that is attached has the model, `Busy` when too many queries wait,
    /// `DeadlineExceeded` when none answered in time, `InvalidArgument` when the model cannot read it.
    pub async fn embed(
        self: &Arc<Self>,
        model: &str,
        digest: Option<&str>,
        input: QueryInput,
    ) -> Result<Vec<f32>> {
        let key = ModelKey { name: model.to_owned(), digest: digest.map(str::to_owned) };
        let is_offered = self.workers().values().any(|worker| {
            let same = |it: &&crate::models::ModelInfo| {
                it.name == key.name && (key.digest.is_none() || it.digest == key.digest)
            };
            worker.models.iter().find(same).is_some()
        });
        if !is_offered {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "no worker that is attached has the model {model}{}; start one with \
                     `lakebed-worker`",
                    digest.map(|digest| format!(" with digest {digest}")).unwrap_or_default()
                ),
            ));
        }
        let id = JobId::new(&format!("query-{}", uuid::Uuid::now_v7()));
        let (answer, answered) = oneshot::channel();
        {
            let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
            if queries.len() >= WAITING_MAX {
                let message = format!("{WAITING_MAX} queries wait for workers");
                return Err(Error::new(ErrorKind::Busy, message).with_retry_after_ms(500));
            }
            queries.insert(id.clone(), PendingQuery { input, answer });
        }
        let asked = Asked { jobs: Arc::clone(self), id: id.clone() };
        self.step(Event::Ask { query: id, model: key });
        self.wake();
        let outcome = tokio::time::timeout(TIME_MAX, answered).await;
        drop(asked);
        match outcome {
            Ok(Ok(Ok(vector))) => Ok(vector),
            Ok(Ok(Err(error))) => Err(Error::invalid(format!("model {model}: {error}"))),
            Ok(Err(_)) => Err(Error::internal("a query was lost")),
            Err(_) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!("no worker answered within {} s", TIME_MAX.as_secs()),
            )),
        }
    }

    pub(crate) fn answer(&self, query: &JobId, outcome: Result<Vec<f32>, String>) {
        let found = self.queries.lock().unwrap_or_else(PoisonError::into_inner).remove(query);
        if let Some(pending) = found {
            // Whoever asked may be gone.
            let _ = pending.answer.send(outcome);
        }
    }

    pub(crate) fn query_input(&self, query: &JobId) -> Option<QueryInput> {
        let queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        queries.get(query).map(|pending| pending.input.clone())
    }
}
