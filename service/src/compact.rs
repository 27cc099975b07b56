//! Compact a table when somebody asks for it.

use std::sync::Arc;

use lakebed_compaction::{Budget, Pass, TableSettings, compact};
use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_storage::Table;

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Joins small fragments of a branch's newest version, all that the policy finds, or only says what it
    /// would do. The table's own settings hold, but for the one that turns compaction off. While others ask
    /// for something it rests as maintenance does.
    ///
    /// # Errors
    /// `NotFound` naming table or branch, `InvalidArgument` naming a setting of the table.
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
            Ok(handle) => self.compact_by_settings(&handle, branch, budget).await,
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

    async fn compact_by_settings(
        &self,
        table: &Arc<Table>,
        branch: Option<&str>,
        budget: Budget,
    ) -> Result<Pass> {
        let targets = TableSettings::of(table).await?.targets;
        let pace = self.pace_while(self.admission.is_in_use_by_others());
        compact(table, branch, &targets, budget, &self.compacting, &pace).await
    }
}
