//! DoAction: the standard actions that Lakebed knows; those of Flight SQL are in `sql/actions.rs`.

use std::sync::Arc;

use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo,
};
use bytes::Bytes;
use lakebed_core::{Error, Result};
use lakebed_proto::worker::{FUNCTION_ACTION, MODEL_ACTION, MODEL_FILE_ACTION, SYNC_ACTION};
use lakebed_service::Service;
use prost::Message;

use crate::descriptor::shown;
use crate::request::Call;
use crate::sql;
use crate::worker;

/// The standard action that gives up the endpoints of a FlightInfo.
pub(crate) const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

/// Runs one action and returns the bodies of its results.
pub(crate) async fn do_action(
    service: &Arc<Service>,
    call: &Call,
    action: &Action,
) -> Result<Vec<Bytes>> {
    if action.r#type == CANCEL_FLIGHT_INFO {
        let info = info_of(&action.body)?;
        return Ok(vec![cancelled(sql::cancel(service, call, &info)?)]);
    }
    if action.r#type == SYNC_ACTION {
        return Ok(vec![worker::sync(service, call, &action.body).await?]);
    }
    if action.r#type == FUNCTION_ACTION {
        return Ok(vec![worker::function(service, call, &action.body).await?]);
    }
    if action.r#type == MODEL_ACTION {
        return Ok(vec![worker::model(service, call, &action.body).await?]);
    }
    if action.r#type == MODEL_FILE_ACTION {
        return Ok(vec![worker::model_file(service, call, &action.body).await?]);
    }
    match sql::do_action(service, call, action).await? {
        Some(bodies) => Ok(bodies),
        None => Err(unknown(&action.r#type)),
    }
}

fn unknown(name: &str) -> Error {
    let known: Vec<&str> = sql::ACTIONS.iter().map(|(name, _)| *name).collect();
    Error::invalid(format!(
        "action `{}` is not known; {CANCEL_FLIGHT_INFO}, {SYNC_ACTION}, {FUNCTION_ACTION}, \
         {MODEL_ACTION}, {MODEL_FILE_ACTION}, {} are",
        shown(name),
        known.join(", ")
    ))
}

/// The FlightInfo that is to be given up. Of a read nothing runs between GetFlightInfo and DoGet, and a
/// lease ends by itself; an endpoint that is not ours is refused all the same.
fn info_of(body: &[u8]) -> Result<FlightInfo> {
    let request = CancelFlightInfoRequest::decode(body).map_err(|error| {
        Error::invalid(format!("{CANCEL_FLIGHT_INFO} is not protobuf: {error}"))
    })?;
    request.info.ok_or_else(|| Error::invalid(format!("{CANCEL_FLIGHT_INFO} has no FlightInfo")))
}

fn cancelled(is_cancelled: bool) -> Bytes {
    let status = match is_cancelled {
        true => CancelStatus::Cancelled,
        false => CancelStatus::NotCancellable,
    };
    Bytes::from(CancelFlightInfoResult { status: status.into() }.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use arrow_flight::FlightEndpoint;

    use super::*;

    #[test]
    fn a_body_without_an_info_is_refused() {
        let endpoint = FlightEndpoint::new();
        let info = FlightInfo::new().with_endpoint(endpoint);
        let body = CancelFlightInfoRequest { info: Some(info.clone()) }.encode_to_vec();
        assert_eq!(info_of(&body).unwrap(), info);
        assert!(info_of(b"\x01").is_err());
        assert!(info_of(b"").is_err());
    }

    #[test]
    fn unknown_actions_are_named() {
        assert!(unknown("Reboot").message().contains("`Reboot`"));
        let result = CancelFlightInfoResult::decode(cancelled(false)).unwrap();
        assert_eq!(result.status(), CancelStatus::NotCancellable);
    }
}
