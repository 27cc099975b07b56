//! Restore: an old version becomes the newest again, as a new version.

use futures::FutureExt;
use futures::future::BoxFuture;
use lakebed_core::{ErrorKind, Result};
use lance::dataset::transaction::{Operation, Transaction};

use crate::commit::TRIES_MAX;
use crate::snapshot::At;
use crate::table::Table;

impl Table {
    /// Commits `version` of a branch again as its newest version; returns the new number.
    ///
    /// # Errors
    /// `NotFound` when the version does not exist, `Conflict` when others keep committing first.
    pub fn restore<'a>(
        self: &'a std::sync::Arc<Self>,
        branch: Option<&'a str>,
        version: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        async move {
            // Pinned, so that nothing takes it away before it is the newest.
            let _snapshot = self.snapshot(branch, &At::Version(version)).await?;
            let branch = self.branch(branch).await?;
            let _mutation = branch.mutation.lock().await;
            let mut tries = 1;
            loop {
                let latest = branch.latest().await?.version().version;
                let transaction = Transaction::new(latest, Operation::Restore { version }, None);
                match branch.commit(transaction, Vec::new(), None).await {
                    Ok(committed) => return Ok(committed.version().version),
                    // An append went in between: the restore is meant for what is newest now.
                    Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES_MAX => {
                        tries += 1
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        .boxed()
    }
}
