//! Signals: the first one stops the server gently, the second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// SIGTERM and SIGINT, caught from the moment this exists.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to catch. From here on a signal no longer ends the process by itself.
    ///
    /// # Errors
    /// Failure when the system refuses.
    pub(crate) fn catch() -> Result<Signals, Exit> {
        let failed = |error| Exit::failed(format!("catch signals: {error}"));
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Waits for one; returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
