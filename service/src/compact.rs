//! Compact a table when somebody asks for it.

use lakebed_compaction::{Budget, Pace, Pass, Targets, compact};
use lakebed_core::{RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Joins small fragments of a branch's newest version, all that the policy finds, or only says what it
    /// would do.
    ///
    /// # Errors
    /// `NotFound` naming table or branch.
    pub async fn compact(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        is_dry_run: bool,
    ) -> Result<Pass> {
        self.permit(ctx, Role::Write, "compact", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let budget = Budget { bytes_max: u64::MAX, is_dry_run };
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => {
                let (targets, pace) = (Targets::default(), Pace::at_once());
                compact(&handle, branch, &targets, budget, &self.compacting, &pace).await
            }
            Err(error) => Err(error),
        };
        if !is_dry_run {
            let mut line = AuditLine::new(ctx, "compact").outcome(&outcome);
            line.table = Some(table.to_string());
            line.version = outcome.as_ref().ok().map(|pass| pass.version);
            self.audit.record(line);
        }
        outcome
    }
}
