//! SQL: a statement is planned once, then run by its ticket.
//!
//! A plan says what comes out and carries, in its [`SqlPart`], everything that is needed to run the
//! statement: text, scope, and for a query the versions that it reads, which are leased for as long as
//! the ticket lives. So a query can be run again, by any server of the lake, and reads the same rows. A
//! change runs once, by the server that planned it: `once.rs`.
//!
//! | to | look in |
//! | --- | --- |
//! | plan and run | here |
//! | carry out a change | `change.rs` |
//! | keep a statement with its parameters | `prepared.rs` |
//! | cancel | `running.rs` |
//! | list databases, namespaces, tables | `objects.rs` |

mod change;
mod objects;
mod once;
mod prepared;
mod running;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use lakebed_core::{DatabaseName, Error, RequestContext, Result, Role};
use lakebed_sql::{
    Bound, PinnedTable, PlannedQuery, Scope, Statement, StatementKind, number_names,
};
use serde::{Deserialize, Serialize};

pub use objects::TableEntry;
pub(crate) use once::Once;
pub use prepared::PreparedSql;
pub(crate) use prepared::PreparedStatements;
pub(crate) use running::Running;

use crate::authenticate::require;
use crate::{BatchStream, Service};

/// Memory that one table of an open query may take for read-ahead.
const READ_BYTES: usize = 8 << 20;

/// A statement as a client sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlRequest {
    /// The text of one statement.
    pub text: String,
    /// The namespace of tables that are named without one, as SQL writes it.
    pub namespace: Option<String>,
}

/// A planned statement.
#[derive(Debug)]
pub struct SqlPlan {
    /// The schema of its rows; nothing for a change.
    pub schema: Option<SchemaRef>,
    /// What runs it; opaque to the doors.
    pub part: SqlPart,
    /// Until when it can be run.
    pub expires_at_ms: i64,
}

/// What runs a planned statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlPart {
    id: String,
    text: String,
    scope: Scope,
    /// Of a query.
    pins: Option<Vec<PinnedTable>>,
    /// Of a change: the process that planned it.
    process: Option<String>,
    expires_at_ms: i64,
}

impl SqlPart {
    /// Names this run of the statement.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Service {
    /// Plans a statement: pins and leases what a query reads, and checks that a change may be asked for.
    ///
    /// # Errors
    /// `InvalidArgument` with the position for text that is no SQL, `NotFound` naming table or column and
    /// what comes near, `NotImplemented` naming what is not built.
    pub async fn plan_sql(&self, ctx: &RequestContext, request: SqlRequest) -> Result<SqlPlan> {
        self.plan_bound(ctx, request, None).await
    }

    async fn plan_bound(
        &self,
        ctx: &RequestContext,
        request: SqlRequest,
        parameters: Option<&RecordBatch>,
    ) -> Result<SqlPlan> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let scope = Scope::new(&ctx.database, request.namespace.as_deref())?;
        let statement = Statement::parse(&request.text, &self.limits)?;
        let expires_at_ms = self.clock.now_ms().saturating_add(self.limits.ticket_ttl_ms);
        let (schema, pins, process) = match statement.kind() {
            StatementKind::Query => {
                let query = self.sql.plan_query(&scope, &statement, None).await?;
                let query = query.bind(&values_of(parameters)?)?;
                query.lease(expires_at_ms);
                (Some(query.schema()?), Some(query.pins().to_vec()), None)
            }
            StatementKind::Change => {
                require(ctx, Role::Write)?;
                (None, None, Some(self.once.process().to_owned()))
            }
        };
        let id = uuid::Uuid::now_v7().to_string();
        let part = SqlPart { id, text: request.text, scope, pins, process, expires_at_ms };
        Ok(SqlPlan { schema, part, expires_at_ms })
    }

    /// Runs a planned statement; a change answers with one row, the number of rows that it touched.
    ///
    /// # Errors
    /// `NotFound` for a ticket that expired, `AlreadyExists` for a change that was run before, and those
    /// of running the statement.
    pub async fn run_sql(
        self: &Arc<Self>,
        ctx: &RequestContext,
        part: SqlPart,
        parameters: Option<RecordBatch>,
    ) -> Result<(SchemaRef, BatchStream)> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        if part.expires_at_ms <= self.clock.now_ms() {
            return Err(Error::not_found("the ticket of the statement expired; send it again"));
        }
        check_database(ctx, &part.scope)?;
        let statement = Statement::parse(&part.text, &self.limits)?;
        match statement.kind() {
            StatementKind::Query => {
                let pins = part.pins.as_deref();
                let query = self.sql.plan_query(&part.scope, &statement, pins).await?;
                let query = query.bind(&values_of(parameters.as_ref())?)?;
                let run = self.running.begin(&part.id)?;
                let (schema, batches) = self.stream_query(query, guard).await?;
                Ok((schema, run.watch(batches)))
            }
            StatementKind::Change => {
                let now_ms = self.clock.now_ms();
                self.once.take(&part.id, part.process.as_deref(), part.expires_at_ms, now_ms)?;
                let (scope, _) = (part.scope, guard);
                let rows = self.change_to_the_end(ctx, scope, statement, parameters).await?;
                counted(rows)
            }
        }
    }

    /// Plans and runs a statement in one go.
    ///
    /// # Errors
    /// As [`Service::plan_sql`] and [`Service::run_sql`].
    pub async fn sql(
        self: &Arc<Self>,
        ctx: &RequestContext,
        request: SqlRequest,
        parameters: Option<RecordBatch>,
    ) -> Result<(SchemaRef, BatchStream)> {
        let text = match &parameters {
            None => request.text,
            Some(batch) => {
                let schema = batch.schema();
                let names: Vec<&str> =
                    schema.fields().iter().map(|field| field.name().as_str()).collect();
                number_names(&request.text, &names, &self.limits)?
            }
        };
        let request = SqlRequest { text, ..request };
        let plan = self.plan_bound(ctx, request, parameters.as_ref()).await?;
        self.run_sql(ctx, plan.part, parameters).await
    }

    async fn stream_query(
        &self,
        query: PlannedQuery,
        guard: crate::gate::GateGuard,
    ) -> Result<(SchemaRef, BatchStream)> {
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(read_ahead(&query)).await?;
        let (schema, batches) = query.run().await?;
        metrics::counter!("lakebed_sql_statements_total", "kind" => "query").increment(1);
        let held = (guard, request, memory);
        let batches = batches.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok((schema, batches.boxed()))
    }
}

/// The schema of a change's answer: one row, the number of rows that it touched.
pub fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, false)]))
}

/// What the scans of a query may read ahead.
fn read_ahead(query: &PlannedQuery) -> usize {
    READ_BYTES.saturating_mul(query.pins().len().max(1))
}

/// The answer of a change that touched `rows` rows.
fn counted(rows: u64) -> Result<(SchemaRef, BatchStream)> {
    let schema = count_schema();
    let count: ArrayRef = Arc::new(Int64Array::from(vec![i64::try_from(rows).unwrap_or(i64::MAX)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![count])
        .map_err(|error| Error::internal("a count cannot be shown").with_source(error))?;
    Ok((schema, futures::stream::iter([Ok(batch)]).boxed()))
}

/// The values of a query's parameters: one row.
fn values_of(parameters: Option<&RecordBatch>) -> Result<Bound> {
    match parameters {
        None => Ok(Bound::default()),
        Some(batch) if batch.num_rows() == 1 => Bound::row(batch, 0),
        Some(batch) => Err(Error::invalid(format!(
            "a query takes one row of parameters; {} were bound",
            batch.num_rows()
        ))),
    }
}

/// A ticket belongs to the database that it was made for: its text may name no other by default.
fn check_database(ctx: &RequestContext, scope: &Scope) -> Result<()> {
    let database = DatabaseName::parse(scope.database())?;
    if database == ctx.database {
        return Ok(());
    }
    Err(Error::invalid(format!("the ticket is for database `{database}`, not `{}`", ctx.database)))
}
