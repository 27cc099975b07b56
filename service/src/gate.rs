//! A gate whose guards hold shutdown open.
//!
//! Every verb enters the gate before it touches anything and keeps the guard until it is done,
//! spawned work included. Shutdown closes the gate and waits until the last guard is dropped or its
//! deadline has passed. What always holds: after [`Gate::close`] nobody enters, so the number of
//! guards only falls.

use lakebed_core::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The gate of one service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    tracker: TaskTracker,
}

/// Held while something runs that shutdown has to wait for.
#[derive(Debug)]
#[must_use = "the gate counts a verb as done when its guard is dropped"]
pub(crate) struct GateGuard {
    _token: TaskTrackerToken,
}

impl Gate {
    /// Enters, unless the gate is closed.
    ///
    /// # Errors
    /// `Unavailable` once shutdown has begun.
    pub(crate) fn enter(&self) -> Result<GateGuard> {
        // The token comes first: were the order the other way round, shutdown could close the gate
        // and find it empty between the check and the token.
        let token = self.tracker.token();
        if self.tracker.is_closed() {
            return Err(Error::new(ErrorKind::Unavailable, "the server is shutting down"));
        }
        Ok(GateGuard { _token: token })
    }

    /// Lets nobody enter any more.
    pub(crate) fn close(&self) {
        self.tracker.close();
    }

    /// Waits until a closed gate is empty or `deadline` has passed; returns how many guards are
    /// left.
    pub(crate) async fn wait_empty(&self, deadline: Instant) -> usize {
        // A timeout is an answer here: the number left says what was cut off.
        let _ = tokio::time::timeout_at(deadline, self.tracker.wait()).await;
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn a_closed_gate_refuses_and_waits_for_those_inside() {
        let gate = Gate::default();
        let guard = gate.enter().unwrap();
        gate.close();
        assert_eq!(gate.enter().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(gate.wait_empty(Instant::now()).await, 1);

        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.wait_empty(soon()).await }
        });
        drop(guard);
        assert_eq!(waiting.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_empty_gate_is_left_at_once() {
        let gate = Gate::default();
        drop(gate.enter().unwrap());
        gate.close();
        assert_eq!(gate.wait_empty(soon()).await, 0);
    }
}
