//! CommandStatementQuery: a statement that answers with rows.
//!
//! A change may come this way too, because clients that do not know what a statement does send it so. It
//! runs at DoGet and answers with one row, its count. Its FlightInfo has no schema, which makes such
//! clients wait for the first message of DoGet: the change is over by then, and its error is theirs.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::{Service, SqlPlan};

use super::SqlTicket;
use super::parameters::SealedParameters;
use crate::request::Call;
use crate::ticket;

/// Refuses a transaction by name.
///
/// # Errors
/// `NotImplemented` where there is one.
pub(crate) fn no_transaction(id: Option<&[u8]>) -> Result<()> {
    match id {
        None | Some([]) => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::NotImplemented,
            "transactions are not built; each statement commits by itself",
        )),
    }
}

/// Plans a statement.
pub(crate) async fn flight_info(
    service: &Arc<Service>,
    call: &Call,
    text: String,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let plan = service.plan_sql(&call.ctx, super::request(call, text)).await?;
    info_of(call, plan, None, descriptor)
}

/// Plans the execution of a prepared statement.
pub(crate) async fn prepared_info(
    service: &Arc<Service>,
    call: &Call,
    handle: &str,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let (plan, parameters) = service.plan_prepared(&call.ctx, handle).await?;
    let parameters = parameters.as_ref().map(SealedParameters::seal).transpose()?;
    info_of(call, plan, parameters, descriptor)
}

/// The handle of a prepared statement as text.
///
/// # Errors
/// `NotFound` for one that this server did not make.
pub(crate) fn handle_of(handle: &[u8]) -> Result<&str> {
    std::str::from_utf8(handle)
        .map_err(|_| Error::not_found("the prepared statement is not known here"))
}

/// The schema that a statement answers with.
pub(crate) async fn schema(service: &Arc<Service>, call: &Call, text: String) -> Result<SchemaRef> {
    let plan = service.plan_sql(&call.ctx, super::request(call, text)).await?;
    let schema = plan.schema.unwrap_or_else(lakebed_service::count_schema);
    Ok(Arc::new(call.column_types.schema(&schema)))
}

/// The FlightInfo of a planned statement: one endpoint.
fn info_of(
    call: &Call,
    plan: SqlPlan,
    parameters: Option<SealedParameters>,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let ticket = SqlTicket { part: plan.part, parameters };
    let mut endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket::encode_sql(&ticket)?));
    let expires = endpoint.expiration_time.get_or_insert_default();
    expires.seconds = plan.expires_at_ms.div_euclid(1_000);
    expires.nanos = (plan.expires_at_ms.rem_euclid(1_000) * 1_000_000) as i32;
    let mut info = FlightInfo::new();
    if let Some(schema) = &plan.schema {
        info = info
            .try_with_schema(&call.column_types.schema(schema))
            .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))?;
    }
    Ok(info
        .with_descriptor(descriptor)
        .with_endpoint(endpoint)
        .with_total_records(-1)
        .with_total_bytes(-1)
        .with_ordered(true))
}
