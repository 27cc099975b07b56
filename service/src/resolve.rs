//! From what a request names to what storage opens.

use std::sync::Arc;

use lakebed_core::{Error, Freshness, RequestContext, Result, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::{At, Snapshot, Table};

use crate::Service;

/// The version that a read names.
///
/// # Errors
/// `InvalidArgument` when it names more than one.
pub(crate) fn at_of(command: &ReadCommand) -> Result<At> {
    let ReadCommand { version, tag, as_of, .. } = command;
    match (version, tag, as_of) {
        (None, None, None) => Ok(At::Latest),
        (Some(version), None, None) => Ok(At::Version(*version)),
        (None, Some(tag), None) => Ok(At::Tag(tag.clone())),
        (None, None, Some(time)) => Ok(At::AsOf(*time)),
        _ => Err(Error::invalid("at most one of `version`, `tag` and `as_of` may be given")),
    }
}

impl Service {
    /// Pins the version that a read names.
    pub(crate) async fn snapshot(
        &self,
        ctx: &RequestContext,
        command: &ReadCommand,
    ) -> Result<Snapshot> {
        let id = TableId::parse(&ctx.database, &command.table)?;
        self.snapshot_of(ctx, &id, command).await
    }

    /// The table, with a branch of it as new as the request asks for.
    pub(crate) async fn fresh_table(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        branch: Option<&str>,
    ) -> Result<Arc<Table>> {
        let table = self.lake.table(id).await?;
        if ctx.freshness != Freshness::default() {
            table
                .catch_up(branch, &ctx.freshness)
                .await
                .map_err(|error| error.context(format!("table `{}`", id.text())))?;
        }
        Ok(table)
    }

    /// Pins the version of a table that `at` names.
    pub(crate) async fn snapshot_of(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        at: &ReadCommand,
    ) -> Result<Snapshot> {
        let place = at_of(at)?;
        let table = self.fresh_table(ctx, id, at.branch.as_deref()).await?;
        table
            .snapshot(at.branch.as_deref(), &place)
            .await
            .map_err(|error| error.context(format!("table `{}`", id.text())))
    }
}
