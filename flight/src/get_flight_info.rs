//! GetFlightInfo: plans a read and hands out one endpoint for each of its parts, or plans a statement.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use lakebed_core::{Error, Result};
use lakebed_service::{ReadPlan, Service};

use crate::descriptor::{changes_command, read_command, search_command, sql_command};
use crate::request::Call;
use crate::{changes, search, sql, ticket};

/// What the format writes where a number is not known.
const UNKNOWN: i64 = -1;

/// Plans the read that `descriptor` names.
pub(crate) async fn get_flight_info(
    service: &Arc<Service>,
    call: &Call,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    if let Some(command) = sql_command(&descriptor)? {
        return sql::get_flight_info(service, call, command, descriptor).await;
    }
    if let Some(request) = search_command(&descriptor)? {
        return search::flight_info(service, call, request, descriptor).await;
    }
    if let Some(command) = changes_command(&descriptor)? {
        return changes::flight_info(service, call, command, descriptor).await;
    }
    let command = read_command(&call.ctx.database, &descriptor)?;
    let plan = service.plan_read(&call.ctx, command).await?;
    flight_info(&plan, descriptor)
}

/// The endpoints of a plan, one for each part, and what is known of the whole.
pub(crate) fn flight_info(plan: &ReadPlan, descriptor: FlightDescriptor) -> Result<FlightInfo> {
    let mut endpoints = Vec::with_capacity(plan.parts.len());
    for part in &plan.parts {
        // No location means the server that answered.
        let mut endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket::encode(part)?));
        expire(&mut endpoint, plan.expires_at_ms);
        endpoints.push(endpoint);
    }
    let number = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok()).unwrap_or(UNKNOWN);
    let info = FlightInfo::new()
        .try_with_schema(&plan.schema)
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))?;
    Ok(info
        .with_descriptor(descriptor)
        .with_endpoints(endpoints)
        .with_total_records(number(plan.total_records))
        .with_total_bytes(number(plan.total_bytes))
        .with_ordered(plan.ordered)
        .with_app_metadata(version_metadata(plan.version)))
}

/// States until when an endpoint's ticket can be used.
pub(crate) fn expire(endpoint: &mut FlightEndpoint, at_ms: i64) {
    let expires = endpoint.expiration_time.get_or_insert_default();
    expires.seconds = at_ms.div_euclid(1_000);
    expires.nanos = (at_ms.rem_euclid(1_000) * 1_000_000) as i32;
}

/// The app_metadata that names a version.
fn version_metadata(version: u64) -> Bytes {
    Bytes::from(serde_json::json!({ "version": version }).to_string())
}
