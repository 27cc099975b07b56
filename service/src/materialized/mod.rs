//! Materialized views: made, described, listed, refreshed and dropped.

mod create;
mod refresh;

use std::sync::Arc;

use lakebed_core::{Error, NamespacePath, RequestContext, Result, Role, Subject, TableId};
use lakebed_storage::{At, MaterializedView, Table};

pub use refresh::RefreshView;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

impl Service {
    /// The definition of a materialized view.
    ///
    /// # Errors
    /// `NotFound` naming the nearest tables, `InvalidArgument` for a table that is none.
    pub async fn describe_materialized_view(
        &self,
        ctx: &RequestContext,
        id: &TableId,
    ) -> Result<MaterializedView> {
        require(ctx, Role::Read)?;
        let table = self.fresh_table(ctx, id, None).await?;
        definition_of(&table, id).await
    }

    /// The materialized views of a namespace, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_materialized_views(
        &self,
        ctx: &RequestContext,
        namespace: &NamespacePath,
    ) -> Result<Vec<TableId>> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let views = self.lake.list_materialized_views(&ctx.database, Some(namespace)).await?;
        Ok(views.into_iter().map(|(id, _)| id).collect())
    }

    /// Drops a materialized view with all its versions; its source stays.
    ///
    /// # Errors
    /// `NotFound` naming the nearest tables, `InvalidArgument` for a table that is none.
    pub async fn drop_materialized_view(&self, ctx: &RequestContext, id: &TableId) -> Result<()> {
        const ACTION: &str = "drop_materialized_view";
        self.permit(ctx, Role::Write, ACTION, Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let dropped = async {
            let table = self.lake.table(id).await?;
            definition_of(&table, id).await?;
            self.lake.drop_table(id).await
        };
        let outcome = dropped.await;
        let mut line = AuditLine::new(ctx, ACTION).outcome(&outcome);
        line.table = Some(id.to_string());
        self.audit.record(line);
        outcome
    }
}

async fn definition_of(table: &Arc<Table>, id: &TableId) -> Result<MaterializedView> {
    let view = table.snapshot(None, &At::Latest).await?.materialized_view()?;
    view.ok_or_else(|| {
        let message = format!("table `{}` is no materialized view", id.text());
        Error::invalid(message).about(Subject::Table)
    })
}
