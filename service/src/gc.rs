//! Delete old versions of a table when somebody asks for it, or say what would be deleted.

use lakebed_compaction::{Retention, clean};
use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_storage::Cleaned;

use crate::Service;
use crate::audit::AuditLine;

/// What to keep in place of what the table's retention says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Versions of this age and younger, in milliseconds.
    pub age_ms: Option<u64>,
    /// So many of the newest versions.
    pub versions: Option<u64>,
}

impl Service {
    /// Deletes what a branch need not keep: expired versions, the files that only they use, and old files
    /// that no version names; or only says what it would delete.
    ///
    /// # Errors
    /// `NotFound` naming table or branch; `PermissionDenied` unless for an admin or a dry run.
    pub async fn gc(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        keep: Keep,
        is_dry_run: bool,
    ) -> Result<Cleaned> {
        let role = if is_dry_run { Role::Write } else { Role::Admin };
        self.permit(ctx, role, "gc", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let outcome = self.clean_now(ctx, table, branch, keep, is_dry_run).await;
        if !is_dry_run {
            let mut line = AuditLine::new(ctx, "gc").outcome(&outcome);
            line.table = Some(table.to_string());
            line.bytes = outcome.as_ref().ok().map(|cleaned| cleaned.bytes);
            self.audit.record(line);
        }
        outcome
    }

    async fn clean_now(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        keep: Keep,
        is_dry_run: bool,
    ) -> Result<Cleaned> {
        let handle = self.fresh_table(ctx, table, branch).await?;
        let mut retention = Retention::of(&handle, &self.limits).await?;
        retention.age_ms = keep.age_ms.unwrap_or(retention.age_ms);
        retention.versions = keep.versions.unwrap_or(retention.versions);
        let retention = retention.at_least(&self.limits);
        clean(&handle, branch, &retention, self.clock.now_ms(), 0, is_dry_run).await
    }
}
