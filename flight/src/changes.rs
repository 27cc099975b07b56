//! The change feed over Flight: one endpoint with both versions fixed in its ticket.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use lakebed_core::{Error, Result};
use lakebed_proto::changes::ChangesCommand;
use lakebed_service::{BatchStream, Service};

use crate::get_flight_info::expire;
use crate::request::Call;
use crate::ticket;

/// Plans a feed.
pub(crate) async fn flight_info(
    service: &Service,
    call: &Call,
    command: ChangesCommand,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let plan = service.plan_changes(&call.ctx, command).await?;
    let ticket = ticket::encode_changes(&plan.part)?;
    let mut endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    expire(&mut endpoint, plan.part.expires_at_ms());
    let info = FlightInfo::new()
        .try_with_schema(&plan.schema)
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))?;
    let about = serde_json::json!({ "from": plan.part.from(), "to": plan.part.to() });
    Ok(info
        .with_descriptor(descriptor)
        .with_endpoint(endpoint)
        .with_total_records(-1)
        .with_total_bytes(-1)
        .with_ordered(true)
        .with_app_metadata(Bytes::from(about.to_string())))
}

/// The schema of a feed.
pub(crate) async fn schema(
    service: &Service,
    call: &Call,
    command: ChangesCommand,
) -> Result<SchemaRef> {
    Ok(service.plan_changes(&call.ctx, command).await?.schema)
}

/// The rows of a feed that is planned now.
pub(crate) async fn do_get(
    service: &Arc<Service>,
    call: &Call,
    command: &ChangesCommand,
) -> Result<(SchemaRef, BatchStream)> {
    let changes = service.changes(&call.ctx, command).await?;
    Ok((changes.schema, changes.batches))
}
