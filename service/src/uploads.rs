//! Uploads of big blobs.
use lakebed_core::{Error, RequestContext, Result, Role};
use lakebed_storage::PARTS_MAX;
pub use lakebed_storage::{ByteStream, Claimed, SignedParts};

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// Memory that one running upload takes: a piece being filled and one on its way to the store.
const UPLOAD_BYTES: usize = 16 << 20;

/// A part of a direct upload that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Its number, from 1.
    pub number: u64,
    /// What the store answered.
    pub etag: String,
}

/// The ETags of parts in the order of their numbers, none of which is missing.
fn in_order(parts: &[StoredPart]) -> Result<Vec<String>> {
    if parts.is_empty() || parts.len() as u64 > PARTS_MAX {
        return Err(Error::invalid(format!("field `parts` has from 1 to {PARTS_MAX} parts")));
    }
    let mut parts: Vec<_> = parts.iter().collect();
    parts.sort_by_key(|part| part.number);
    for (expected, part) in (1..).zip(&parts) {
        if part.number != expected {
            return Err(Error::invalid(format!(
                "field `parts` has a part with the number {} where {expected} is expected; parts are \
                 numbered from 1 on without a gap",
                part.number
            )));
        }
    }
    Ok(parts.into_iter().map(|part| part.etag.clone()).collect())
}

impl Service {
    /// Begins an upload and returns its id. The parts of a `direct` one go to the store itself.
    ///
    /// # Errors
    /// `Busy` when `uploads_max` is reached; `InvalidArgument` for a direct one of a lake in a folder.
    pub async fn create_upload(&self, ctx: &RequestContext, direct: bool) -> Result<String> {
        require(ctx, Role::Write)?;
        let _guard = self.gate.enter()?;
        match direct {
            true => self.lake.uploads().create_direct().await,
            false => self.lake.uploads().create().await,
        }
    }

    /// Signs the addresses of parts of a direct upload, from the one with the number `first` on.
    ///
    /// # Errors
    /// `InvalidArgument` for an upload that is not direct and for numbers out of range; `NotFound`.
    pub async fn sign_upload_parts(
        &self,
        ctx: &RequestContext,
        id: &str,
        first: u64,
        count: u64,
    ) -> Result<SignedParts> {
        self.permit(ctx, Role::Write, "sign_upload_parts", None)?;
        let _guard = self.gate.enter()?;
        let outcome = self.lake.uploads().sign_parts(id, first, count).await;
        let mut line = AuditLine::new(ctx, "sign_upload_parts").outcome(&outcome);
        line.subject = Some(id.chars().take(64).collect());
        self.audit.record(line);
        outcome
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
    /// Of a direct upload the parts are named, with what the store answered for each.
    ///
    /// # Errors
    /// `InvalidArgument` when size or checksum differ from what is stored, and for parts that are not
    /// numbered from 1 on without a gap.
    pub async fn complete_upload(
        &self,
        ctx: &RequestContext,
        id: &str,
        size: u64,
        claimed: &Claimed,
        parts: Option<&[StoredPart]>,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, "complete_upload", None)?;
        let _guard = self.gate.enter()?;
        let _request = self.admission.admit_request().await?;
        let _memory = self.admission.write_bytes(UPLOAD_BYTES).await?;
        let uploads = self.lake.uploads();
        let outcome = match parts {
            None => uploads.complete(id, size, claimed).await,
            Some(parts) => match in_order(parts) {
                Ok(etags) => uploads.complete_direct(id, size, claimed, &etags).await,
                Err(error) => Err(error),
            },
        };
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
