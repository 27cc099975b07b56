//! Add columns that SQL computes.
use lakebed_core::{RequestContext, Result, TableId};

use super::shown;
use crate::Service;

/// Memory for a few batches of old and new values.
const COMPUTE_BYTES: usize = 16 << 20;

impl Service {
    /// Adds a column for each `(name, SQL expression)`, computed once for the rows that are there;
    /// returns the version with them.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists or the expression that cannot be computed;
    /// `NotFound` naming table or branch.
    pub async fn add_sql_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        columns: &[(String, String)],
    ) -> Result<u64> {
        self.check_expressions(columns)?;
        let subject = shown(columns.iter().map(|(name, _)| name.as_str()));
        let changed =
            self.change_columns(ctx, "add_columns", table, branch, subject, |handle| async move {
                let _memory = self.admission.read_bytes(COMPUTE_BYTES).await?;
                Ok(((), handle.add_sql_columns(branch, columns).await?))
            });
        Ok(changed.await?.1)
    }
}
