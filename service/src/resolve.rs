//! From what a request names to what storage opens.

use lakebed_core::{Error, RequestContext, Result, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::{At, Snapshot};

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
        self.snapshot_of(&id, command).await
    }

    /// Pins the version of a table that `at` names.
    pub(crate) async fn snapshot_of(&self, id: &TableId, at: &ReadCommand) -> Result<Snapshot> {
        let place = at_of(at)?;
        let table = self.lake.table(id).await?;
        table
            .snapshot(at.branch.as_deref(), &place)
            .await
            .map_err(|error| error.context(format!("table `{}`", id.text())))
    }
}
