//! PollFlightInfo: planning is quick, so the first poll is the complete answer; a statement runs at DoGet.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, PollInfo};
use lakebed_core::Result;
use lakebed_service::Service;

use crate::get_flight_info::get_flight_info;
use crate::request::Call;

/// Plans the read or the statement that `descriptor` names. No descriptor in the answer means that it is complete.
pub(crate) async fn poll_flight_info(
    service: &Arc<Service>,
    call: &Call,
    descriptor: FlightDescriptor,
) -> Result<PollInfo> {
    let info = get_flight_info(service, call, descriptor).await?;
    let expiration_time = info.endpoint.first().and_then(|endpoint| endpoint.expiration_time);
    Ok(PollInfo { info: Some(info), flight_descriptor: None, progress: Some(1.0), expiration_time })
}
