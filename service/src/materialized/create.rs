//! A materialized view is made: first without rows, then filled by its first refresh.

use std::sync::Arc;

use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_sql::Scope;
use lakebed_storage::Table;
use serde_json::{Value, json};

use super::refresh::{RefreshView, Refreshed};
use crate::Service;
use crate::audit::AuditLine;

const ACTION: &str = "create_materialized_view";

impl Service {
    /// Makes a materialized view, whose table its text names in the view's own namespace; returns the id of
    /// the job that fills it, unless it is to stay `empty` for now.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `InvalidArgument` or `NotFound` for what is wrong with the
    /// query.
    pub async fn create_materialized_view(
        self: &Arc<Self>,
        ctx: &RequestContext,
        id: &TableId,
        query: &str,
        empty: bool,
    ) -> Result<String> {
        let _guard = self.gate.enter()?;
        let namespace = lakebed_sql::schema_name(&id.namespace);
        let scope = Scope::new(&id.database, Some(&namespace))?;
        let table = self.make_view(ctx, id, &scope, query).await?;
        let spec = json!({ "query": query, "with_no_data": empty });
        let (service, view) = (Arc::clone(self), id.clone());
        let work = async move {
            match empty {
                true => Ok(Value::Null),
                false => Ok(service.fill_view(&view, &table).await?.to_json()),
            }
        };
        self.jobs.begin(ctx, ACTION, id.text(), spec, work).await
    }

    /// The same, in which the caller waits until it is filled; returns its rows.
    ///
    /// # Errors
    /// As [`Service::create_materialized_view`], and those of the first refresh; there is no view then.
    pub(crate) async fn create_materialized_view_in(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        scope: &Scope,
        query: &str,
        empty: bool,
    ) -> Result<u64> {
        let table = self.make_view(ctx, id, scope, query).await?;
        match empty {
            true => Ok(0),
            false => Ok(self.fill_view(id, &table).await?.written),
        }
    }

    async fn make_view(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        scope: &Scope,
        query: &str,
    ) -> Result<Arc<Table>> {
        self.permit(ctx, Role::Write, ACTION, Some(&id.to_string()))?;
        let made = async {
            let (view, columns) = self.sql.check_materialized_view(scope, id, query).await?;
            self.lake.create_materialized_view(id, &columns, &view).await?;
            self.lake.table(id).await
        };
        let outcome = made.await;
        let mut line = AuditLine::new(ctx, ACTION).outcome(&outcome);
        line.table = Some(id.to_string());
        self.audit.record(line);
        outcome
    }

    /// The first refresh; a view whose query fails is none.
    async fn fill_view(&self, id: &TableId, table: &Arc<Table>) -> Result<Refreshed> {
        let filled = self.refresh_view(table, RefreshView::default()).await;
        if let Err(error) = &filled {
            let is_its_own =
                self.lake.find_table(id).await?.is_some_and(|it| it.uid() == table.uid());
            if is_its_own && let Err(left) = self.lake.drop_table(id).await {
                let (error, left) = (error.report(), left.report());
                tracing::warn!(error, left, "a materialized view that was not filled stays");
            }
        }
        filled
    }
}
