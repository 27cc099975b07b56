//! Writes in parts: one request for each part, one commit for all of them.

use arrow_schema::SchemaRef;
use lakebed_core::{RequestContext, Result, Role, TableId};

use crate::audit::AuditLine;
use crate::{BatchStream, Service};

/// One part of a write.
#[derive(Debug, Clone)]
pub struct Part {
    /// The write it belongs to.
    pub upload_id: String,
    /// The branch that the request names; it has to be the upload's.
    pub branch: Option<String>,
    /// Its own id; the same part sent again counts once.
    pub part_id: String,
    /// Whether the whole write replaces the rows that are there.
    pub overwrite: bool,
}

impl Service {
    /// Begins a write in parts; returns its id. What is not completed within a day is thrown away.
    ///
    /// # Errors
    /// `NotFound` naming table or branch.
    pub async fn create_multipart(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, "create_multipart", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        self.fresh_table(ctx, table, branch).await?.create_multipart(branch).await
    }

    /// Writes one part. Nothing becomes visible.
    ///
    /// # Errors
    /// `NotFound` without the table, `InvalidArgument` for an unknown upload or rows that do not fit;
    /// the error of `batches` itself.
    pub async fn write_part(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        part: &Part,
        schema: SchemaRef,
        batches: BatchStream,
    ) -> Result<u64> {
        self.permit(ctx, Role::Write, "write_part", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let handle = self.lake.table(table).await?;
        let Part { upload_id, branch, part_id, overwrite } = part;
        let branch = branch.as_deref();
        handle.write_part(branch, upload_id, part_id, *overwrite, schema, batches).await
    }

    /// Makes all parts of a write visible in one version, which is returned. Done twice, it commits once.
    ///
    /// # Errors
    /// `NotFound` without the table, `InvalidArgument` for an unknown upload or parts that contradict
    /// each other, `Conflict` when the table was replaced meanwhile.
    pub async fn complete_multipart(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        upload_id: &str,
    ) -> Result<u64> {
        self.permit(ctx, Role::Write, "complete_multipart", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let outcome = match self.lake.table(table).await {
            Ok(handle) => handle.complete_multipart(branch, upload_id).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "complete_multipart").outcome(&outcome);
        line.table = Some(table.to_string());
        if let Ok(receipt) = &outcome {
            line.version = Some(receipt.version);
            line.rows = Some(receipt.rows);
            line.bytes = Some(receipt.bytes);
        }
        self.audit.record(line);
        outcome.map(|receipt| receipt.version)
    }

    /// Throws the parts of a write away.
    ///
    /// # Errors
    /// `NotFound` without the table, `InvalidArgument` for an unknown upload.
    pub async fn abort_multipart(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        upload_id: &str,
    ) -> Result<()> {
        self.permit(ctx, Role::Write, "abort_multipart", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.lake.table(table).await {
            Ok(handle) => handle.abort_multipart(branch, upload_id).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "abort_multipart").outcome(&outcome);
        line.table = Some(table.to_string());
        self.audit.record(line);
        outcome
    }
}
