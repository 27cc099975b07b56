//! Move a table to a profile: which tools can open it.

use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_storage::{Folded, Profile};

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Moves a branch of a table to a profile. On the way to the open one its overlays are folded.
    ///
    /// # Errors
    /// `NotFound` naming table or branch; `Conflict` when writers were faster than folding.
    pub async fn set_profile(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        profile: Profile,
    ) -> Result<Folded> {
        self.permit(ctx, Role::Write, "set_profile", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => handle.set_profile(branch, profile).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "set_profile").outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(profile.to_string());
        line.version = outcome.as_ref().ok().map(|folded| folded.version);
        self.audit.record(line);
        outcome
    }
}
