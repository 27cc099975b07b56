//! Versions of a table.
use lakebed_core::{RequestContext, Result, Role, TableId};

use crate::Service;
use crate::authenticate::require;

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
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn list_versions(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<VersionSummary>> {
        require(ctx, Role::Read)?;
        let versions = self.lake.table(table).await?.list_versions(None, limit, before).await?;
        Ok(versions
            .into_iter()
            .map(|entry| VersionSummary {
                version: entry.version,
                committed_at_ms: entry.committed_at.timestamp_millis(),
            })
            .collect())
    }
}
