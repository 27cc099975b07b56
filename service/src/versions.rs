//! Versions of a table.
use lakebed_core::{RequestContext, Result, TableId};

use crate::Service;

/// A version in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSummary {
    /// Its number.
    pub version: u64,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
}

impl Service {
    /// Up to `limit` versions, newest first, below `before` where that is given.
    pub async fn list_versions(
        &self,
        _ctx: &RequestContext,
        _table: &TableId,
        _limit: usize,
        _before: Option<u64>,
    ) -> Result<Vec<VersionSummary>> {
        unimplemented!()
    }
}
