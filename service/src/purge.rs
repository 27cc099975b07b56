//! Take the bytes of deleted rows away, or say what that would be.

use lakebed_compaction::{Purged, plan_purge, purge};
use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_storage::PurgePlan;

use crate::Service;
use crate::audit::AuditLine;

const VERB: &str = "purge";

impl Service {
    /// What a purge of a branch would do, and what would keep it from it.
    ///
    /// # Errors
    /// `Denied` unless an admin asks; `NotFound` naming table or branch.
    pub async fn plan_purge(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
    ) -> Result<PurgePlan> {
        self.permit(ctx, Role::Admin, VERB, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        plan_purge(&self.fresh_table(ctx, table, branch).await?, branch).await
    }

    /// Makes sure that the bytes of rows which the newest version of a branch does not show are gone.
    ///
    /// # Errors
    /// `Denied` unless an admin asks; `NotFound` naming table or branch; `Conflict` naming who keeps old
    /// versions, `Busy` while a backup is under way.
    pub async fn purge(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
    ) -> Result<Purged> {
        self.permit(ctx, Role::Admin, VERB, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        // The memory of one rewrite is stated, that of many would not be.
        let _compacting = self.compacting.lock().await;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => {
                let now_ms = self.clock.now_ms();
                let purged = purge(&self.lake, &handle, branch, &self.limits, now_ms).await;
                // What it read of the old rows on the way is kept no longer.
                let cleared = self.lake.clear_read_cache().await;
                purged.and_then(|purged| cleared.map(|()| purged))
            }
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, VERB).outcome(&outcome);
        line.table = Some(table.to_string());
        line.version = outcome.as_ref().ok().map(|purged| purged.version);
        self.audit.record(line);
        outcome
    }
}
