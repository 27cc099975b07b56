//! Carries out changes that SQL asks for, with the verbs that every door uses.
//!
//! So roles, audit, durability and what a write means are theirs. What always holds: a change that began
//! runs to its end, also when its client goes away.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_jobs::RefreshRule;
use lakebed_proto::command::{CommitRule, WriteCommand, WriteMode};
use lakebed_sql::{Change, HistoryChange, IfExists, PlannedQuery, Scope, Statement, StatementKind};
use lakebed_storage::ColumnAlteration;
use tracing::Instrument;

use super::{SqlRequest, read_ahead};
use crate::authenticate::require;
use crate::materialized::RefreshView;
use crate::merge::Merge;
use crate::{BatchStream, Service};

impl Service {
    /// Runs a statement that changes tables, once for each row of `parameters`; returns how many rows it
    /// touched.
    ///
    /// # Errors
    /// `InvalidArgument` for a query; those of the verbs that carry it out.
    pub async fn change_sql(
        self: &Arc<Self>,
        ctx: &RequestContext,
        request: SqlRequest,
        parameters: Option<RecordBatch>,
    ) -> Result<u64> {
        let scope = Scope::new(&ctx.database, request.namespace.as_deref())?;
        let statement = Statement::parse(&request.text, &self.limits)?;
        self.change_to_the_end(ctx, scope, statement, parameters).await
    }

    /// Runs a change where its table is led.
    pub(super) async fn change_to_the_end(
        self: &Arc<Self>,
        ctx: &RequestContext,
        scope: Scope,
        statement: Statement,
        parameters: Option<RecordBatch>,
    ) -> Result<u64> {
        if let Some(table) = statement.changed_table(&scope)? {
            let elsewhere =
                self.change_elsewhere(ctx, table, &scope, &statement, parameters.as_ref());
            if let Some(rows) = elsewhere.await? {
                return Ok(rows);
            }
        }
        self.change_here(ctx, scope, statement, parameters).await
    }

    /// Runs a change in a task of its own.
    pub(crate) async fn change_here(
        self: &Arc<Self>,
        ctx: &RequestContext,
        scope: Scope,
        statement: Statement,
        parameters: Option<RecordBatch>,
    ) -> Result<u64> {
        require(ctx, Role::Write)?;
        let guard = self.gate.enter()?;
        if statement.kind() != StatementKind::Change {
            return Err(Error::invalid("the statement is a query; execute it as one"));
        }
        let (service, ctx) = (Arc::clone(self), ctx.clone());
        let work = async move {
            let _guard = guard;
            let parameters = parameters.as_ref();
            let changes = service.sql.plan_changes(&scope, &statement, parameters).await?;
            metrics::counter!("lakebed_sql_statements_total", "kind" => "change").increment(1);
            let mut rows = 0_u64;
            for change in changes {
                rows = rows.saturating_add(service.carry_out(&ctx, change).await?);
            }
            Ok(rows)
        };
        tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::CommitUnknown, "the change broke off").with_source(error))
        })
    }

    async fn carry_out(&self, ctx: &RequestContext, change: Change) -> Result<u64> {
        match change {
            Change::CreateTable { table, schema, rows, if_exists } => {
                self.create_in_sql(ctx, &table, schema, rows, if_exists).await
            }
            Change::Insert { table, rows } => {
                let (schema, batches) = self.open_rows(*rows).await?;
                self.write_in_sql(ctx, &table, WriteMode::Append, schema, batches).await
            }
            Change::Merge { table, on, rule, rows } => {
                let (schema, batches) = self.open_rows(*rows).await?;
                let merge = Merge { branch: None, on, rule, deadline: None };
                let outcome = self.merge(&at(ctx, &table), &table, merge, schema, batches).await?;
                Ok(outcome.updated + outcome.inserted + outcome.deleted)
            }
            Change::Delete { table, predicate } => {
                let filter = predicate.as_deref().unwrap_or("true");
                let (rows, _) = self.delete_rows(&at(ctx, &table), &table, None, filter).await?;
                Ok(rows)
            }
            Change::DropTables { tables, if_exists } => {
                for table in &tables {
                    match self.drop_table(&at(ctx, table), table).await {
                        Err(error) if if_exists && error.kind() == ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
                Ok(0)
            }
            Change::CreateView { view, query, scope, if_exists } => {
                let ctx = at(ctx, &view);
                let replace = if_exists == IfExists::Replace;
                match self.create_view_in(&ctx, &view, &scope, &query, replace).await {
                    Err(error)
                        if if_exists == IfExists::Keep
                            && error.kind() == ErrorKind::AlreadyExists => {}
                    other => drop(other?),
                }
                Ok(0)
            }
            Change::CreateMaterializedView { view, query, scope, fill, if_not_exists } => {
                let ctx = at(ctx, &view);
                let made = self.create_materialized_view_in(&ctx, &view, &scope, &query, !fill);
                match made.await {
                    Err(error) if if_not_exists && error.kind() == ErrorKind::AlreadyExists => {
                        Ok(0)
                    }
                    made => made,
                }
            }
            Change::RefreshMaterializedView { view, full } => {
                let rule = RefreshView { full, source_version: None };
                self.refresh_materialized_view_now(&at(ctx, &view), &view, rule).await
            }
            Change::DropMaterializedViews { views, if_exists } => {
                for view in &views {
                    match self.drop_materialized_view(&at(ctx, view), view).await {
                        Err(error) if if_exists && error.kind() == ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
                Ok(0)
            }
            Change::DropViews { views, if_exists } => {
                for view in &views {
                    match self.drop_view(&at(ctx, view), view).await {
                        Err(error) if if_exists && error.kind() == ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
                Ok(0)
            }
            Change::History { table, change } => {
                let ctx = at(ctx, &table);
                match change {
                    HistoryChange::CreateTag(tag, version) => {
                        self.create_tag(&ctx, &table, &tag, None, version).await?;
                    }
                    HistoryChange::MoveTag(tag, version) => {
                        self.update_tag(&ctx, &table, &tag, None, version).await?;
                    }
                    HistoryChange::DeleteTag(tag) => {
                        self.delete_tag(&ctx, &table, &tag).await?;
                    }
                    HistoryChange::Restore(version) => {
                        self.restore(&ctx, &table, None, version).await?;
                    }
                }
                Ok(0)
            }
            Change::RenameTable { from, to } => {
                self.rename_table(&at(ctx, &from), &from, &to).await?;
                Ok(0)
            }
            Change::Update { table, sets, predicate } => {
                let ctx = at(ctx, &table);
                let updated = self.update_rows(&ctx, &table, None, predicate.as_deref(), &sets);
                updated.await.map(|(rows, _)| rows)
            }
            Change::AddColumns { table, schema } => {
                self.add_null_columns(&at(ctx, &table), &table, None, schema).await?;
                Ok(0)
            }
            Change::AddComputedColumns { table, columns } => {
                self.add_sql_columns(&at(ctx, &table), &table, None, &columns).await?;
                Ok(0)
            }
            Change::KeepComputed { table, column } => {
                self.add_kept_column(&at(ctx, &table), &table, column).await?;
                Ok(0)
            }
            Change::Refresh { table, column } => {
                let rule = RefreshRule::default();
                self.refresh_column(&at(ctx, &table), &table, None, &column, rule).await?;
                Ok(0)
            }
            Change::AlterColumn { table, column, rename, data_type, nullable } => {
                let path = column;
                let alteration = ColumnAlteration { path, rename, data_type, nullable };
                self.alter_columns(&at(ctx, &table), &table, None, &[alteration]).await?;
                Ok(0)
            }
            Change::DropColumns { table, columns } => {
                self.drop_columns(&at(ctx, &table), &table, None, &columns).await?;
                Ok(0)
            }
        }
    }

    async fn create_in_sql(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        schema: SchemaRef,
        rows: Option<Box<PlannedQuery>>,
        if_exists: IfExists,
    ) -> Result<u64> {
        if if_exists == IfExists::Keep && self.lake.find_table(table).await?.is_some() {
            return Ok(0);
        }
        let (schema, batches) = match rows {
            Some(rows) => self.open_rows(*rows).await?,
            None => (schema, futures::stream::empty().boxed()),
        };
        let mode = match if_exists {
            IfExists::Replace => WriteMode::Overwrite,
            IfExists::Fail | IfExists::Keep => WriteMode::Create,
        };
        match self.write_in_sql(ctx, table, mode, schema, batches).await {
            // Somebody else made it meanwhile.
            Err(error)
                if if_exists == IfExists::Keep && error.kind() == ErrorKind::AlreadyExists =>
            {
                Ok(0)
            }
            other => other,
        }
    }

    /// Runs the query whose rows are to be written. The write takes the place of the request.
    async fn open_rows(&self, rows: PlannedQuery) -> Result<(SchemaRef, BatchStream)> {
        let memory = self.admission.read_bytes(read_ahead(&rows)).await?;
        let (schema, batches) = rows.run().await?;
        let batches = batches.inspect(move |_| {
            let _ = &memory;
        });
        Ok((schema, batches.boxed()))
    }

    async fn write_in_sql(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        mode: WriteMode,
        schema: SchemaRef,
        batches: BatchStream,
    ) -> Result<u64> {
        let command = WriteCommand {
            table: table.text(),
            mode,
            on: Vec::new(),
            branch: None,
            write_id: None,
            commit: CommitRule::OnEnd,
        };
        let receipt = self.write(&at(ctx, table), command, schema, batches).await?;
        Ok(receipt.rows)
    }
}

/// The context of a table, which a name of three parts may put into another database.
fn at(ctx: &RequestContext, table: &TableId) -> RequestContext {
    RequestContext { database: table.database.clone(), ..ctx.clone() }
}
