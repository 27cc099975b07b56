//! Which large blobs are old enough to be deleted, once nothing refers to them any more.

use std::sync::Arc;

use lakebed_core::{Limits, Result};
use lakebed_storage::{BlobSweepRule, Lake, SweptBlobs};

/// What a killed server's writes claimed is kept so long at least, whatever the limits: nobody else can
/// tell it from what a write that goes on has claimed.
const CLAIM_AGE_MIN_MS: i64 = 24 * 3_600_000;

/// Deletes the large blobs that nothing refers to, or says which these are.
///
/// # Errors
/// `Busy` while a backup is under way; the error that kept a table from being read.
pub async fn sweep_blobs(
    lake: &Arc<Lake>,
    limits: &Limits,
    now_ms: i64,
    is_dry_run: bool,
) -> Result<SweptBlobs> {
    lake.sweep_blobs(rule(limits, now_ms, is_dry_run)).await
}

/// Claims of other servers' writes that are older are of servers that are gone.
pub(crate) fn claims_before_ms(limits: &Limits, now_ms: i64) -> i64 {
    now_ms.saturating_sub(age_ms(limits).max(CLAIM_AGE_MIN_MS))
}

fn rule(limits: &Limits, now_ms: i64, is_dry_run: bool) -> BlobSweepRule {
    BlobSweepRule {
        before_ms: now_ms.saturating_sub(age_ms(limits)),
        claims_before_ms: claims_before_ms(limits, now_ms),
        is_dry_run,
    }
}

/// The age of what a write left that never ended: a write in parts, or one that refers to uploads, may be
/// completed so late.
fn age_ms(limits: &Limits) -> i64 {
    let age_ms = limits.orphan_age_ms.max(limits.version_age_ms_min);
    i64::try_from(age_ms).unwrap_or(i64::MAX).max(limits.upload_ttl_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_never_deleted_before_an_upload_expires() {
        let mut limits = Limits { orphan_age_ms: 5, upload_ttl_ms: 9, ..Limits::default() };
        limits.version_age_ms_min = 1;
        assert_eq!(age_ms(&limits), 9);
        limits.orphan_age_ms = 20;
        assert_eq!(age_ms(&limits), 20);
        limits.version_age_ms_min = u64::MAX;
        assert_eq!(age_ms(&limits), i64::MAX);
        let limits = Limits { orphan_age_ms: 0, upload_ttl_ms: 0, version_age_ms_min: 0, ..limits };
        let rule = rule(&limits, CLAIM_AGE_MIN_MS + 5, false);
        assert_eq!((rule.before_ms, rule.claims_before_ms), (CLAIM_AGE_MIN_MS + 5, 5));
    }
}
