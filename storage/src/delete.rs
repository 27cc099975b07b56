//! Delete rows by a filter: their positions are noted beside the data, which stays as it is.

use async_recursion::async_recursion as boxed;
use lakebed_core::{ErrorKind, Result};
use lance::dataset::DeleteBuilder;

use crate::commit::TRIES_MAX;
use crate::lance_error::from_lance;
use crate::sql_guard::check_sql;
use crate::table::Table;

impl Table {
    /// Deletes the rows for which `filter` is true; returns how many, and the version without them.
    /// Nothing is committed when no row matches.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse.
    #[boxed]
    pub async fn delete_rows(&self, branch: Option<&str>, filter: &str) -> Result<(u64, u64)> {
        check_sql(filter, &self.shared.limits).map_err(|error| error.context("filter"))?;
        let branch = self.branch(branch).await?;
        branch.check_no_view().await?;
        let _mutation = branch.mutation.lock().await;
        let _pin = branch.hold().await?;
        let mut tries = 1;
        let mut turn = None;
        loop {
            let latest = branch.latest().await?;
            let deletion =
                Box::pin(DeleteBuilder::new(latest.clone(), filter).execute_uncommitted())
                    .await
                    .map_err(|error| match from_lance(error) {
                        error if error.kind() == ErrorKind::InvalidArgument => {
                            error.context("filter")
                        }
                        error => error,
                    })?;
            if deletion.num_deleted_rows == 0 {
                return Ok((0, latest.version().version));
            }
            let rows = deletion.num_deleted_rows;
            let outcome = branch
                .commit_on_newest(
                    deletion.transaction,
                    Vec::new(),
                    deletion.affected_rows,
                    turn.take(),
                )
                .await;
            match outcome {
                Ok(committed) => return Ok((rows, committed.version().version)),
                Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES_MAX => {
                    tries += 1;
                    // Appends wait this time.
                    turn = Some(branch.turn().await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
