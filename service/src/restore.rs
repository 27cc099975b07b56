//! Restore an old version as the newest.
use lakebed_core::{RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Commits `version` of a branch again as its newest version and returns its number.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or version.
    pub async fn restore(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        version: u64,
    ) -> Result<u64> {
        self.permit(ctx, Role::Write, "restore", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => handle.restore(branch, version).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "restore").outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(format!("version {version}"));
        line.version = outcome.as_ref().ok().copied();
        self.audit.record(line);
        outcome
    }
}
