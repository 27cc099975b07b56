//! Find near duplicates: a job of the server over a column of MinHash signatures.

use std::sync::Arc;

use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_jobs::NearDuplicates;
use lakebed_storage::At;
use serde_json::json;

use crate::Service;
use crate::audit::AuditLine;

const VERB: &str = "find_near_duplicates";

impl Service {
    /// Begins to find near duplicates; returns the id of the job. What can be refused is refused at once.
    ///
    /// # Errors
    /// `NotFound` naming table or column, `InvalidArgument` for what does not fit.
    pub async fn find_near_duplicates(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        command: NearDuplicates,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, VERB, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let subject = format!("{}, {}", command.cluster, command.keep);
        let outcome = self.begin_near_duplicates(ctx, table, command).await;
        let mut line = AuditLine::new(ctx, VERB).outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(subject);
        self.audit.record(line);
        outcome
    }

    async fn begin_near_duplicates(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        command: NearDuplicates,
    ) -> Result<String> {
        let handle = self.fresh_table(ctx, table, None).await?;
        command.check(&handle.snapshot(None, &At::Latest).await?)?;
        let spec = json!({
            "signature": command.signature,
            "cluster": command.cluster,
            "keep": command.keep,
            "threshold": command.likeness.threshold,
            "bands": command.likeness.bands.map(|(bands, _)| bands),
            "band_slots": command.likeness.bands.map(|(_, slots)| slots),
        });
        let lake = Arc::clone(&self.lake);
        let memory_bytes_max = self.limits.near_duplicates_memory_bytes_max;
        let work = async move { command.run(&lake, &handle, memory_bytes_max).await };
        self.jobs.begin(ctx, VERB, table.text(), spec, work).await
    }
}
