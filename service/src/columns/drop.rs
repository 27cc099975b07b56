//! Drop columns.
use lakebed_core::{RequestContext, Result, TableId};

use super::shown;
use crate::Service;

impl Service {
    /// Drops columns, and the indexes on them; returns the version without them.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or column; `InvalidArgument` when no column would be left.
    pub async fn drop_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        columns: &[String],
    ) -> Result<u64> {
        let subject = shown(columns.iter().map(String::as_str));
        let changed =
            self.change_columns(ctx, "drop_columns", table, branch, subject, |handle| async move {
                Ok(((), handle.drop_columns(branch, columns).await?))
            });
        Ok(changed.await?.1)
    }
}
