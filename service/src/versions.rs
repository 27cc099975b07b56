//! Versions of a table.
use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::VersionEntry;

use crate::Service;
use crate::authenticate::require;

/// A version in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSummary {
    /// Its number.
    pub version: u64,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
    /// Where its manifest lies, relative to the lake's root.
    pub manifest: String,
    /// Bytes of the manifest, where they are known.
    pub manifest_bytes: Option<u64>,
    /// What the store calls this state of the manifest, where it says.
    pub e_tag: Option<String>,
}

impl From<VersionEntry> for VersionSummary {
    fn from(entry: VersionEntry) -> Self {
        VersionSummary {
            version: entry.version,
            committed_at_ms: entry.committed_at.timestamp_millis(),
            manifest: entry.manifest,
            manifest_bytes: entry.manifest_bytes,
            e_tag: entry.e_tag,
        }
    }
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
        Ok(versions.into_iter().map(VersionSummary::from).collect())
    }

    /// One version of a table.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or version.
    pub async fn describe_version(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
    ) -> Result<VersionSummary> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        Ok(self.snapshot_of(ctx, table, at).await?.entry().into())
    }
}
