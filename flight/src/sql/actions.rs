//! Actions of Flight SQL: prepared statements, cancelling, sessions, and the transactions that are not
//! built.

use std::sync::Arc;

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    ProstMessageExt,
};
use arrow_flight::{Action, FlightInfo, IpcMessage, SchemaAsIpc};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::Schema;
use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::Service;
use prost::Message;

use super::query;
use crate::request::Call;
use crate::ticket::{self, TicketContents};

/// The actions of Flight SQL with what they do; those that are not built are left out.
pub(crate) const ACTIONS: [(&str, &str); 4] = [
    ("CreatePreparedStatement", "Prepare a statement in SQL and learn its columns and parameters."),
    ("ClosePreparedStatement", "Forget a prepared statement."),
    ("CancelQuery", "Cancel a planned or running query; CancelFlightInfo does the same."),
    ("CloseSession", "End a session. There are none, so nothing is lost by it."),
];

/// Runs an action of Flight SQL; nothing where it is none.
///
/// # Errors
/// `NotImplemented` naming an action that is known and not built.
pub(crate) async fn do_action(
    service: &Arc<Service>,
    call: &Call,
    action: &Action,
) -> Result<Option<Vec<Bytes>>> {
    let bodies = match action.r#type.as_str() {
        "CreatePreparedStatement" => vec![create(service, call, body(action)?).await?],
        "ClosePreparedStatement" => {
            let request: ActionClosePreparedStatementRequest = body(action)?;
            let handle = query::handle_of(&request.prepared_statement_handle)?;
            service.close_prepared(&call.ctx, handle)?;
            Vec::new()
        }
        "CancelQuery" => vec![cancel_query(service, call, body(action)?)?],
        "CloseSession" => vec![Bytes::from(CloseSessionResult { status: CLOSED }.encode_to_vec())],
        "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => {
            return Err(Error::new(
                ErrorKind::NotImplemented,
                "transactions are not built; each statement commits by itself",
            ));
        }
        "CreatePreparedSubstraitPlan" => {
            return Err(Error::new(ErrorKind::NotImplemented, "substrait plans are not built"));
        }
        "SetSessionOptions" | "GetSessionOptions" => {
            return Err(Error::new(
                ErrorKind::NotImplemented,
                "session options are not built; name the database in the header `database`",
            ));
        }
        _ => return Ok(None),
    };
    Ok(Some(bodies))
}

/// The message of an action, inside its `Any`.
fn body<M: ProstMessageExt + Default>(action: &Action) -> Result<M> {
    let broken = || Error::invalid(format!("the body of action {} cannot be read", action.r#type));
    let any = Any::decode(&action.body[..]).map_err(|_| broken())?;
    any.unpack::<M>().map_err(|_| broken())?.ok_or_else(broken)
}

async fn create(
    service: &Arc<Service>,
    call: &Call,
    request: ActionCreatePreparedStatementRequest,
) -> Result<Bytes> {
    query::no_transaction(request.transaction_id.as_deref())?;
    let prepared = service.prepare_sql(&call.ctx, super::request(call, request.query)).await?;
    // A change has no result set, which is how a client sees that it is one.
    let dataset_schema = match &prepared.schema {
        Some(schema) => message(&call.column_types.schema(schema))?,
        None => Bytes::new(),
    };
    let result = ActionCreatePreparedStatementResult {
        prepared_statement_handle: Bytes::from(prepared.handle),
        dataset_schema,
        parameter_schema: message(&prepared.parameters)?,
    };
    Ok(Bytes::from(result.as_any().encode_to_vec()))
}

fn message(schema: &Schema) -> Result<Bytes> {
    let options = IpcWriteOptions::default();
    let encoded: Result<IpcMessage, _> = SchemaAsIpc::new(schema, &options).try_into();
    let IpcMessage(bytes) = encoded
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))?;
    Ok(bytes)
}

fn cancel_query(
    service: &Service,
    call: &Call,
    request: ActionCancelQueryRequest,
) -> Result<Bytes> {
    let info = FlightInfo::decode(request.info)
        .map_err(|_| Error::invalid("CancelQuery does not hold a FlightInfo"))?;
    let result = match cancel(service, call, &info)? {
        true => QUERY_CANCELLED,
        false => QUERY_NOT_CANCELLABLE,
    };
    let result = ActionCancelQueryResult { result };
    Ok(Bytes::from(result.as_any().encode_to_vec()))
}

/// Cancels the statement of a FlightInfo; false where there is nothing to cancel.
///
/// # Errors
/// `InvalidArgument` for an endpoint that is not ours.
pub(crate) fn cancel(service: &Service, call: &Call, info: &FlightInfo) -> Result<bool> {
    let mut is_cancelled = false;
    for endpoint in &info.endpoint {
        let ticket = endpoint.ticket.as_ref().map(|ticket| &ticket.ticket[..]);
        if let TicketContents::Sql(ticket) = ticket::decode(ticket.unwrap_or_default())? {
            is_cancelled = service.cancel_sql(&call.ctx, &ticket.part)?;
        }
    }
    Ok(is_cancelled)
}

/// Of the format's CancelResult, which arrow keeps to itself.
const QUERY_CANCELLED: i32 = 1;
const QUERY_NOT_CANCELLABLE: i32 = 3;

const CLOSED: i32 = 1;

/// Of the format's session messages, which arrow does not have.
#[derive(Clone, PartialEq, Message)]
struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    status: i32,
}
