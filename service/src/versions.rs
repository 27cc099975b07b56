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
    /// Up to `limit` versions of a branch, newest first, below `before` where that is given.
    ///
    /// # Errors
    /// `NotFound` naming table or branch.
    pub async fn list_versions(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<VersionSummary>> {
        require(ctx, Role::Read)?;
        let handle = self.fresh_table(ctx, table, branch).await?;
        let versions = handle.list_versions(branch, limit, before).await?;
        Ok(versions
            .into_iter()
            .map(|entry| VersionSummary {
                version: entry.version,
                committed_at_ms: entry.committed_at.timestamp_millis(),
            })
            .collect())
    }
}
