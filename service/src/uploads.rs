//! Uploads of big blobs.
use lakebed_core::{RequestContext, Result, Role};
pub use lakebed_storage::{ByteStream, Claimed};

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// Memory that one running upload takes: a piece being filled and one on its way to the store.
const UPLOAD_BYTES: usize = 16 << 20;

impl Service {
    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// `Busy` when `uploads_max` is reached.
    pub async fn create_upload(&self, ctx: &RequestContext) -> Result<String> {
        require(ctx, Role::Write)?;
        let _guard = self.gate.enter()?;
        self.lake.uploads().create().await
    }

    /// How many bytes are stored so far.
    ///
    /// # Errors
    /// `NotFound` when there is no such upload.
    pub async fn upload_offset(&self, ctx: &RequestContext, id: &str) -> Result<u64> {
        require(ctx, Role::Write)?;
        self.lake.uploads().offset(id).await
    }

    /// Appends at `offset`, which must be what is stored so far; returns the new offset. What arrived
    /// before an `Err` stays, so that the client can resume.
    ///
    /// # Errors
    /// `Conflict` naming the offset to resume at; `InvalidArgument` beyond `upload_bytes_max`.
    pub async fn put_upload(
        &self,
        ctx: &RequestContext,
        id: &str,
        offset: u64,
        body: ByteStream,
    ) -> Result<u64> {
        require(ctx, Role::Write)?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let _memory = self.admission.write_bytes(UPLOAD_BYTES).await?;
        let end = self.lake.uploads().append(id, offset, body).await?;
        metrics::counter!("lakebed_uploaded_bytes_total").increment(end.saturating_sub(offset));
        Ok(end)
    }

    /// Ends an upload: checks size and checksum; its SHA-256. Afterwards `upload:ID` can be referred to.
    ///
    /// # Errors
    /// `InvalidArgument` when size or checksum differ from what is stored.
    pub async fn complete_upload(
        &self,
        ctx: &RequestContext,
        id: &str,
        size: u64,
        claimed: &Claimed,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, "complete_upload", None)?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let _memory = self.admission.write_bytes(UPLOAD_BYTES).await?;
        let outcome = self.lake.uploads().complete(id, size, claimed).await;
        let mut line = AuditLine::new(ctx, "complete_upload").outcome(&outcome);
        line.subject = Some(id.chars().take(64).collect());
        line.bytes = Some(size);
        self.audit.record(line);
        outcome
    }

    /// Throws an upload away.
    ///
    /// # Errors
    /// `NotFound` when there is no such upload.
    pub async fn abort_upload(&self, ctx: &RequestContext, id: &str) -> Result<()> {
        self.permit(ctx, Role::Write, "abort_upload", None)?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.uploads().abort(id).await;
        let mut line = AuditLine::new(ctx, "abort_upload").outcome(&outcome);
        line.subject = Some(id.chars().take(64).collect());
        self.audit.record(line);
        outcome
    }
}
