//! Delete large blobs that nothing refers to when somebody asks for it, or say what would be deleted.

use lakebed_compaction::sweep_blobs;
use lakebed_core::{RequestContext, Result, Role};
use lakebed_storage::SweptBlobs;

use crate::Service;
use crate::audit::AuditLine;

const VERB: &str = "gc_blobs";

impl Service {
    /// Deletes the large blobs of the whole lake that nothing refers to and that are old enough; or only
    /// says what it would delete.
    ///
    /// # Errors
    /// `Denied` unless an admin asks, `Busy` while a backup is under way; the error that kept a table from
    /// being read, and then nothing is deleted.
    pub async fn gc_blobs(&self, ctx: &RequestContext, is_dry_run: bool) -> Result<SweptBlobs> {
        self.permit(ctx, Role::Admin, VERB, None)?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let now_ms = self.clock.now_ms();
        let outcome = sweep_blobs(&self.lake, &self.limits, now_ms, is_dry_run).await;
        if !is_dry_run {
            let mut line = AuditLine::new(ctx, VERB).outcome(&outcome);
            line.bytes = outcome.as_ref().ok().map(|swept| swept.deleted.bytes);
            self.audit.record(line);
        }
        outcome
    }
}
