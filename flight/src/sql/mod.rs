//! Flight SQL, on the same service as everything else.
//!
//! A descriptor or a ticket whose bytes are a protobuf `Any` of Flight SQL comes here. Each command has
//! the file of its name, or shares one with those that belong together:
//!
//! | commands | file |
//! | --- | --- |
//! | StatementQuery, PreparedStatementQuery | `query.rs`, their values `parameters.rs` |
//! | GetCatalogs, GetDbSchemas, GetTables, GetTableTypes, keys | `objects.rs` |
//! | GetSqlInfo | `info.rs` |
//! | GetXdbcTypeInfo | `types.rs` |
//! | StatementUpdate, PreparedStatementUpdate, binding | `put.rs` |
//! | StatementIngest | `ingest.rs` |
//! | prepared statements, transactions, cancelling | `actions.rs` |
//!
//! Types that clients cannot read are made into others in `column_types.rs`.
//!
//! What always holds: nothing here runs before DoGet, DoPut or an action; FlightInfo only plans.

mod actions;
mod column_types;
mod command;
mod exchange;
mod info;
mod ingest;
mod objects;
mod parameters;
mod put;
mod query;
mod ticket;
mod types;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::Command;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::{BatchStream, Service, SqlRequest};

pub(crate) use actions::{ACTIONS, cancel, do_action};
pub(crate) use column_types::{COLUMN_TYPES_HEADER, ColumnTypes};
pub(crate) use command::{command_of, statement_in_ticket};
pub(crate) use exchange::do_exchange;
pub(crate) use ingest::{table_of, write_of};
pub(crate) use put::{do_put, updated};
pub(crate) use ticket::SqlTicket;

use crate::request::Call;

/// The statement of a call, with the namespace that its headers name.
pub(crate) fn request(call: &Call, text: String) -> SqlRequest {
    SqlRequest { text, namespace: call.namespace.clone() }
}

/// The namespace of tables that a command names without one.
fn default_schema(call: &Call) -> String {
    call.namespace.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "public".to_owned())
}

/// Plans what a command asks for.
pub(crate) async fn get_flight_info(
    service: &Arc<Service>,
    call: &Call,
    command: Command,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    match command {
        Command::CommandStatementQuery(query) => {
            query::no_transaction(query.transaction_id.as_deref())?;
            query::flight_info(service, call, query.query, descriptor).await
        }
        Command::CommandPreparedStatementQuery(query) => {
            let handle = query::handle_of(&query.prepared_statement_handle)?;
            query::prepared_info(service, call, handle, descriptor).await
        }
        command => {
            // What catalogue commands answer is cheap and is asked for once: it is made at DoGet.
            let schema = fixed_schema(&command)?;
            let ticket = Ticket::new(descriptor.cmd.clone());
            let info = FlightInfo::new().try_with_schema(&schema).map_err(unwritable)?;
            Ok(info
                .with_descriptor(descriptor)
                .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
                .with_total_records(-1)
                .with_total_bytes(-1)
                .with_ordered(true))
        }
    }
}

/// The schema of what a command asks for.
pub(crate) async fn schema(
    service: &Arc<Service>,
    call: &Call,
    command: Command,
) -> Result<SchemaRef> {
    match command {
        Command::CommandStatementQuery(query) => query::schema(service, call, query.query).await,
        Command::CommandPreparedStatementQuery(query) => {
            let handle = query::handle_of(&query.prepared_statement_handle)?;
            let (plan, _) = service.plan_prepared(&call.ctx, handle).await?;
            let schema = plan.schema.unwrap_or_else(lakebed_service::count_schema);
            Ok(Arc::new(call.column_types.schema(&schema)))
        }
        command => fixed_schema(&command),
    }
}

/// The schema of a catalogue command.
fn fixed_schema(command: &Command) -> Result<SchemaRef> {
    Ok(match command {
        Command::CommandGetCatalogs(command) => command.into_builder().schema(),
        Command::CommandGetDbSchemas(command) => command.clone().into_builder().schema(),
        Command::CommandGetTables(command) => command.clone().into_builder().schema(),
        Command::CommandGetTableTypes(command) => command.into_builder().schema(),
        Command::CommandGetSqlInfo(_) => info::schema(),
        Command::CommandGetXdbcTypeInfo(_) => types::schema()?,
        Command::CommandGetPrimaryKeys(_) => objects::primary_keys_schema(),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => objects::foreign_keys_schema(),
        other => return Err(not_for(other, "GetFlightInfo")),
    })
}

/// Answers a ticket of a planned statement.
pub(crate) async fn do_get_planned(
    service: &Arc<Service>,
    call: &Call,
    ticket: SqlTicket,
) -> Result<(SchemaRef, BatchStream)> {
    let limits = service.limits();
    let parameters = ticket.parameters.map(|sealed| sealed.open(limits)).transpose()?;
    let (schema, batches) = service.run_sql(&call.ctx, ticket.part, parameters).await?;
    Ok(call.column_types.rows(schema, batches))
}

/// Answers a ticket that holds a command.
pub(crate) async fn do_get(
    service: &Arc<Service>,
    call: &Call,
    command: Command,
) -> Result<(SchemaRef, BatchStream)> {
    let batch = match command {
        Command::CommandStatementQuery(query) => {
            query::no_transaction(query.transaction_id.as_deref())?;
            let (schema, batches) =
                service.sql(&call.ctx, request(call, query.query), None).await?;
            return Ok(call.column_types.rows(schema, batches));
        }
        Command::CommandGetCatalogs(command) => objects::catalogs(service, call, command).await?,
        Command::CommandGetDbSchemas(command) => objects::schemas(service, call, command).await?,
        Command::CommandGetTables(command) => objects::tables(service, call, command).await?,
        Command::CommandGetTableTypes(command) => objects::table_types(command)?,
        Command::CommandGetSqlInfo(command) => info::info(service.limits(), command)?,
        Command::CommandGetXdbcTypeInfo(command) => types::types(command)?,
        Command::CommandGetPrimaryKeys(command) => {
            objects::primary_keys(service, call, command).await?
        }
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => {
            RecordBatch::new_empty(objects::foreign_keys_schema())
        }
        other => return Err(not_for(&other, "DoGet")),
    };
    let schema = batch.schema();
    Ok((schema, futures::stream::iter([Ok(batch)]).boxed()))
}

/// The answer to a command that does not belong to a method, or is not built.
fn not_for(command: &Command, method: &str) -> Error {
    let name = command.type_url().rsplit('.').next().unwrap_or_default().to_owned();
    let name = crate::descriptor::shown(&name);
    match command {
        Command::CommandStatementSubstraitPlan(_) | Command::Unknown(_) => {
            Error::new(ErrorKind::NotImplemented, format!("flight sql command {name} is not built"))
        }
        _ => Error::invalid(format!("flight sql command {name} does not belong to {method}")),
    }
}

/// An error of arrow while an answer is built.
fn encoding(error: FlightError) -> Error {
    Error::internal("an answer cannot be built").with_source(error)
}

fn unwritable(error: arrow_schema::ArrowError) -> Error {
    Error::internal("a schema cannot be encoded").with_source(error)
}
