//! Tags.
use lakebed_core::{RequestContext, Result, Role, TableId, TagName};
use lakebed_storage::Table;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// A tag in a listing.
pub use lakebed_storage::TagEntry as TagSummary;

impl Service {
    /// Names a version of a branch.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `NotFound` naming table, branch or version.
    pub async fn create_tag(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        tag: &TagName,
        branch: Option<&str>,
        version: u64,
    ) -> Result<()> {
        self.change_tag(ctx, "create_tag", table, tag, Some(version), async |handle| {
            handle.create_tag(tag, branch, version).await
        })
        .await
    }

    /// Moves a tag to another version of a branch.
    ///
    /// # Errors
    /// `NotFound` naming table, branch, tag or version.
    pub async fn update_tag(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        tag: &TagName,
        branch: Option<&str>,
        version: u64,
    ) -> Result<()> {
        self.change_tag(ctx, "update_tag", table, tag, Some(version), async |handle| {
            handle.update_tag(tag, branch, version).await
        })
        .await
    }

    /// Deletes a tag.
    ///
    /// # Errors
    /// `NotFound` naming table or tag.
    pub async fn delete_tag(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        tag: &TagName,
    ) -> Result<()> {
        self.change_tag(ctx, "delete_tag", table, tag, None, async |handle| {
            handle.delete_tag(tag).await
        })
        .await
    }

    /// The tags of a table, sorted by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn list_tags(
        &self,
        ctx: &RequestContext,
        table: &TableId,
    ) -> Result<Vec<TagSummary>> {
        require(ctx, Role::Read)?;
        self.lake.table(table).await?.list_tags().await
    }

    /// What the three changes of a tag have in common; `version` is for the audit line.
    async fn change_tag(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        tag: &TagName,
        version: Option<u64>,
        change: impl AsyncFnOnce(&Table) -> Result<()>,
    ) -> Result<()> {
        self.permit(ctx, Role::Write, verb, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.lake.table(table).await {
            Ok(handle) => change(&handle).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, verb).outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(tag.to_string());
        line.version = version;
        self.audit.record(line);
        outcome
    }
}
