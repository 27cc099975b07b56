//! Queries: the vector of one text or picture, or the look at a new function, done by an attached worker
//! while somebody waits.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::ids::JobId;
use crate::registered::RegisteredModel;
use crate::runtime::ColumnJobs;
use crate::scheduler::{Event, ModelKey};
use crate::work::Interpreter;

/// What a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryInput {
    /// A text.
    Text(String),
    /// The bytes of a picture.
    Picture(Bytes),
}

/// What a worker is asked while somebody waits.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// The vector of something, by a model of the worker's own or by one that is registered.
    Embed {
        /// What it is of.
        input: QueryInput,
        /// The model, where it is registered.
        registered: Option<RegisteredModel>,
    },
    /// Whether a function can be run.
    Check(Arc<Candidate>),
}

/// A function that is to be registered.
#[derive(Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What people know it as.
    pub name: String,
    /// `sha256:` and the digest of all that decides its results.
    pub digest: String,
    /// Its definition, as workers read it. It has secrets in it.
    pub definition: serde_json::Value,
    /// What runs it.
    pub interpreter: Interpreter,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long a worker may take: a cold one loads its model first.
const TIME_MAX: Duration = Duration::from_secs(30);
/// How long it may take to make the environment of a function.
const CHECK_TIME_MAX: Duration = Duration::from_secs(1_800);
/// Queries that may wait at once.
const WAITING_MAX: usize = 1_024;

/// A query that somebody waits for.
pub(crate) struct PendingQuery {
    pub(crate) question: Question,
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
        let registered = match (is_offered, digest) {
            (false, Some(digest)) if self.runners() > 0 => {
                self.registered_as(model, digest).await?
            }
            _ => None,
        };
        if !is_offered && registered.is_none() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "no worker that is attached has the model {model}{}; start one with \
                     `lakebed-worker`",
                    digest.map(|digest| format!(" with digest {digest}")).unwrap_or_default()
                ),
            ));
        }
        let key = registered.as_ref().map_or(key, RegisteredModel::key);
        let outcome = self.ask(key, Question::Embed { input, registered }, TIME_MAX).await?;
        outcome.map_err(|error| Error::invalid(format!("model {model}: {error}")))
    }

    /// Has an attached worker make the environment of a function and load it, once there is one that can.
    ///
    /// # Errors
    /// `InvalidArgument` saying what is wrong with the function, `DeadlineExceeded` when no worker looked at
    /// it in time.
    pub async fn check_function(self: &Arc<Self>, candidate: Arc<Candidate>) -> Result<()> {
        let key = candidate.interpreter.key();
        let name = candidate.name.clone();
        let outcome = self.ask(key, Question::Check(candidate), CHECK_TIME_MAX).await?;
        outcome.map(|_| ()).map_err(|error| Error::invalid(format!("function {name}: {error}")))
    }

    /// Has a worker answer a query.
    async fn ask(
        self: &Arc<Self>,
        key: ModelKey,
        question: Question,
        within: Duration,
    ) -> Result<Result<Vec<f32>, String>> {
        let id = JobId::new(&format!("query-{}", uuid::Uuid::now_v7()));
        let (answer, answered) = oneshot::channel();
        {
            let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
            if queries.len() >= WAITING_MAX {
                let message = format!("{WAITING_MAX} queries wait for workers");
                return Err(Error::new(ErrorKind::Busy, message).with_retry_after_ms(500));
            }
            queries.insert(id.clone(), PendingQuery { question, answer });
        }
        let asked = Asked { jobs: Arc::clone(self), id: id.clone() };
        self.step(Event::Ask { query: id, model: key });
        self.wake();
        let outcome = tokio::time::timeout(within, answered).await;
        drop(asked);
        match outcome {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(Error::internal("a query was lost")),
            Err(_) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!("no worker answered within {} s", within.as_secs()),
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

    pub(crate) fn question(&self, query: &JobId) -> Option<Question> {
        let queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        queries.get(query).map(|pending| pending.question.clone())
    }
}
