//! Flight SQL, on the same service as everything else.
//!
//! A descriptor or a ticket whose bytes are a protobuf `Any` of Flight SQL comes here. Each command has
//! the file of its name, or shares one with those that belong together:
//!
//! | commands | file |
//! | --- | --- |
//! | StatementQuery, PreparedStatementQuery | `query.rs` |
//! | GetCatalogs, GetDbSchemas, GetTables, GetTableTypes, keys | `objects.rs` |
//! | GetSqlInfo | `info.rs` |
//! | GetXdbcTypeInfo | `types.rs` |
//! | StatementUpdate, PreparedStatementUpdate, binding | `put.rs` |
//! | StatementIngest | `ingest.rs` |
//! | prepared statements, transactions, cancelling | `actions.rs` |
//!
//! What always holds: nothing here runs before DoGet, DoPut or an action; FlightInfo only plans.

mod command;
mod query;
mod ticket;

use std::sync::Arc;

use arrow_flight::sql::Command;
use arrow_flight::{FlightDescriptor, FlightInfo};
use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::{BatchStream, Service, SqlRequest};

pub(crate) use command::{command_of, statement_in_ticket};
pub(crate) use ticket::SqlTicket;

use crate::request::Call;

/// The statement of a call, with the namespace that its headers name.
pub(crate) fn request(call: &Call, text: String) -> SqlRequest {
    SqlRequest { text, namespace: call.namespace.clone() }
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
        other => Err(not_built(&other)),
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
        other => Err(not_built(&other)),
    }
}

/// Answers a ticket that holds a command.
pub(crate) async fn do_get(
    service: &Arc<Service>,
    call: &Call,
    command: Command,
) -> Result<(SchemaRef, BatchStream)> {
    match command {
        Command::CommandStatementQuery(query) => {
            query::no_transaction(query.transaction_id.as_deref())?;
            service.sql(&call.ctx, request(call, query.query)).await
        }
        other => Err(not_built(&other)),
    }
}

fn not_built(command: &Command) -> Error {
    let name = command.type_url().rsplit('.').next().unwrap_or_default().to_owned();
    Error::new(
        ErrorKind::NotImplemented,
        format!("flight sql command {} is not built", crate::descriptor::shown(&name)),
    )
}
