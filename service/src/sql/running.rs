//! The queries that run, so that they can be cancelled by their ticket.
//!
//! A ticket that was cancelled before it was used is noted until it expires, and refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role};
use lakebed_sql::{Statement, StatementKind};
use tokio_util::sync::CancellationToken;

use super::SqlPart;
use crate::authenticate::require;
use crate::{BatchStream, Service};

/// The queries of one process.
#[derive(Debug, Default, Clone)]
pub(crate) struct Running {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Runs of a ticket, which may be read by several at a time.
    runs: HashMap<String, (CancellationToken, usize)>,
    /// With the time until which they are remembered.
    cancelled: HashMap<String, i64>,
}

/// One run; it is over when this is dropped.
pub(crate) struct Run {
    running: Running,
    id: String,
    token: CancellationToken,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run.
    ///
    /// # Errors
    /// `Cancelled` for a ticket that was given up.
    pub(crate) fn begin(&self, id: &str) -> Result<Run> {
        let mut state = self.lock();
        if state.cancelled.contains_key(id) {
            return Err(cancelled());
        }
        let (token, runs) = state.runs.entry(id.to_owned()).or_default();
        *runs += 1;
        Ok(Run { running: self.clone(), id: id.to_owned(), token: token.clone() })
    }

    fn cancel(&self, id: &str, until_ms: i64, now_ms: i64) {
        let mut state = self.lock();
        state.cancelled.retain(|_, until_ms| *until_ms > now_ms);
        state.cancelled.insert(id.to_owned(), until_ms);
        if let Some((token, _)) = state.runs.get(id) {
            token.cancel();
        }
    }
}

impl Run {
    /// The batches until the run is cancelled.
    pub(crate) fn watch(self, batches: BatchStream) -> BatchStream {
        futures::stream::unfold(Some((self, batches)), |state| async move {
            let (run, mut batches) = state?;
            let next = tokio::select! {
                biased;
                () = run.token.cancelled() => Some(Err(cancelled())),
                next = batches.next() => next,
            };
            match next? {
                Ok(batch) => Some((Ok(batch), Some((run, batches)))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .fuse()
        .boxed()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.running.lock();
        if let Some((_, runs)) = state.runs.get_mut(&self.id) {
            *runs -= 1;
            if *runs == 0 {
                state.runs.remove(&self.id);
            }
        }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the statement was cancelled")
}

impl Service {
    /// Cancels a planned statement: what runs of it ends, and it cannot be run any more. False for a
    /// change that began, which runs to its end.
    ///
    /// # Errors
    /// `InvalidArgument` for a part that was made up.
    pub fn cancel_sql(&self, ctx: &RequestContext, part: &SqlPart) -> Result<bool> {
        require(ctx, Role::Read)?;
        let now_ms = self.clock.now_ms();
        let until_ms = part.expires_at_ms.min(now_ms.saturating_add(self.limits.ticket_ttl_ms));
        match Statement::parse(&part.text, &self.limits)?.kind() {
            StatementKind::Query => {
                self.running.cancel(&part.id, until_ms, now_ms);
                Ok(true)
            }
            StatementKind::Change => {
                Ok(self.once.take(&part.id, part.process.as_deref(), until_ms, now_ms).is_ok())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancelled_run_ends_with_an_error_and_stays_cancelled() {
        let running = Running::default();
        let endless: BatchStream = futures::stream::pending().boxed();
        let mut watched = running.begin("a").unwrap().watch(endless);
        running.cancel("a", 10, 0);
        let error = watched.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(watched.next().await.is_none());
        drop(watched);
        assert!(running.begin("a").is_err());
        assert!(running.lock().runs.is_empty());
        running.cancel("b", 30, 20);
        assert!(running.begin("a").is_ok());
    }
}
