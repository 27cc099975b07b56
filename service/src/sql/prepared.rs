//! Prepared statements: a text and, after binding, the values of its parameters.
//!
//! They live in the memory of one process, at most `sql_prepared_max` of them, each for as long as a
//! ticket after its last use. Only the key that made one can use it. Nothing is planned ahead: a statement
//! reads the versions that are newest when it is executed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::{Fields, Schema, SchemaRef};
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role};
use lakebed_sql::{Scope, Statement, StatementKind};

use super::{SqlPlan, SqlRequest};
use crate::Service;
use crate::authenticate::require;

/// What a client learns of a statement that it prepared.
#[derive(Debug)]
pub struct PreparedSql {
    /// Names it.
    pub handle: String,
    /// The schema of its rows; nothing for a change.
    pub schema: Option<SchemaRef>,
    /// Its parameters.
    pub parameters: SchemaRef,
}

/// The statements of one process.
#[derive(Debug, Default)]
pub(crate) struct PreparedStatements {
    statements: Mutex<HashMap<String, Prepared>>,
}

#[derive(Debug, Clone)]
struct Prepared {
    request: SqlRequest,
    database: String,
    key_id: String,
    parameters: Option<RecordBatch>,
    expires_at_ms: i64,
}

impl PreparedStatements {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Prepared>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Prepares a statement.
    ///
    /// # Errors
    /// As [`Service::plan_sql`]; `Busy` naming the limit on open statements.
    pub async fn prepare_sql(
        &self,
        ctx: &RequestContext,
        request: SqlRequest,
    ) -> Result<PreparedSql> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let scope = Scope::new(&ctx.database, request.namespace.as_deref())?;
        let statement = Statement::parse(&request.text, &self.limits)?;
        let (schema, parameters) = match statement.kind() {
            StatementKind::Query => {
                let query = self.sql.plan_query(&scope, &statement, None).await?;
                (Some(query.schema()?), query.parameters()?)
            }
            StatementKind::Change => {
                require(ctx, Role::Write)?;
                (None, self.sql.change_parameters(&scope, &statement).await?)
            }
        };
        let handle = uuid::Uuid::new_v4().to_string();
        let now_ms = self.clock.now_ms();
        let prepared = Prepared {
            request,
            database: ctx.database.to_string(),
            key_id: ctx.principal.key_id.clone(),
            parameters: None,
            expires_at_ms: now_ms.saturating_add(self.limits.ticket_ttl_ms),
        };
        let prepared_max = self.limits.sql_prepared_max;
        let mut statements = self.prepared.lock();
        if statements.len() >= prepared_max {
            statements.retain(|_, prepared| prepared.expires_at_ms > now_ms);
        }
        if statements.len() >= prepared_max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the limit sql_prepared_max = {prepared_max} statements is in full use"),
            )
            .with_retry_after_ms(1_000));
        }
        statements.insert(handle.clone(), prepared);
        let parameters = Arc::new(Schema::new(Fields::from(parameters)));
        Ok(PreparedSql { handle, schema, parameters })
    }

    /// Forgets a prepared statement; one that is not known is forgotten already.
    ///
    /// # Errors
    /// `Denied` for the statement of another key.
    pub fn close_prepared(&self, ctx: &RequestContext, handle: &str) -> Result<()> {
        require(ctx, Role::Read)?;
        let mut statements = self.prepared.lock();
        if let Some(prepared) = statements.get(handle) {
            check_owner(ctx, prepared)?;
            statements.remove(handle);
        }
        Ok(())
    }

    /// Binds parameters for the executions that follow.
    ///
    /// # Errors
    /// `NotFound` for a statement that is not known.
    pub fn bind_prepared(
        &self,
        ctx: &RequestContext,
        handle: &str,
        parameters: Option<RecordBatch>,
    ) -> Result<()> {
        require(ctx, Role::Read)?;
        let mut statements = self.prepared.lock();
        let prepared = statements.get_mut(handle).ok_or_else(unknown)?;
        check_owner(ctx, prepared)?;
        prepared.parameters = parameters;
        Ok(())
    }

    /// Plans the execution of a prepared statement; with it the parameters that are bound.
    ///
    /// # Errors
    /// `NotFound` for a statement that is not known; as [`Service::plan_sql`].
    pub async fn plan_prepared(
        &self,
        ctx: &RequestContext,
        handle: &str,
    ) -> Result<(SqlPlan, Option<RecordBatch>)> {
        let Prepared { request, parameters, .. } = self.use_prepared(ctx, handle)?;
        let plan = self.plan_bound(ctx, request, parameters.as_ref()).await?;
        Ok((plan, parameters))
    }

    /// Runs a prepared change with `parameters`, or with those that are bound.
    ///
    /// # Errors
    /// `NotFound` for a statement that is not known; as [`Service::change_sql`].
    pub async fn change_prepared(
        self: &Arc<Self>,
        ctx: &RequestContext,
        handle: &str,
        parameters: Option<RecordBatch>,
    ) -> Result<u64> {
        let prepared = self.use_prepared(ctx, handle)?;
        let parameters = parameters.or(prepared.parameters);
        self.change_sql(ctx, prepared.request, parameters).await
    }

    fn use_prepared(&self, ctx: &RequestContext, handle: &str) -> Result<Prepared> {
        require(ctx, Role::Read)?;
        let now_ms = self.clock.now_ms();
        let mut statements = self.prepared.lock();
        let prepared = statements.get_mut(handle).ok_or_else(unknown)?;
        check_owner(ctx, prepared)?;
        if prepared.expires_at_ms <= now_ms {
            statements.remove(handle);
            return Err(unknown());
        }
        prepared.expires_at_ms = now_ms.saturating_add(self.limits.ticket_ttl_ms);
        Ok(prepared.clone())
    }
}

fn unknown() -> Error {
    Error::not_found(
        "the prepared statement is not known here: it was closed, or expired, or the \
                      server was started again; prepare it again",
    )
}

fn check_owner(ctx: &RequestContext, prepared: &Prepared) -> Result<()> {
    if prepared.key_id != ctx.principal.key_id {
        return Err(Error::new(
            ErrorKind::Denied,
            "the prepared statement was made with another API key",
        ));
    }
    if prepared.database != ctx.database.as_str() {
        return Err(Error::invalid(format!(
            "the prepared statement is for database `{}`, not `{}`",
            prepared.database, ctx.database
        )));
    }
    Ok(())
}
