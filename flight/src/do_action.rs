//! DoAction: the standard actions that Lakebed knows.

use arrow_flight::{Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus};
use bytes::Bytes;
use lakebed_core::{Error, Result};
use prost::Message;

use crate::descriptor::shown;
use crate::ticket;

/// The standard action that gives up the endpoints of a FlightInfo.
pub(crate) const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

/// Runs one action and returns the body of its only result.
pub(crate) fn do_action(action: &Action) -> Result<Bytes> {
    match action.r#type.as_str() {
        CANCEL_FLIGHT_INFO => cancel_flight_info(&action.body),
        other => Err(Error::invalid(format!(
            "action `{}` is not known; {CANCEL_FLIGHT_INFO} is",
            shown(other)
        ))),
    }
}

/// Nothing runs between GetFlightInfo and DoGet, and a lease ends by itself, so there is nothing to
/// cancel; an endpoint that is not ours is refused all the same.
fn cancel_flight_info(body: &[u8]) -> Result<Bytes> {
    let request = CancelFlightInfoRequest::decode(body).map_err(|error| {
        Error::invalid(format!("{CANCEL_FLIGHT_INFO} is not protobuf: {error}"))
    })?;
    let info = request
        .info
        .ok_or_else(|| Error::invalid(format!("{CANCEL_FLIGHT_INFO} has no FlightInfo")))?;
    for endpoint in &info.endpoint {
        let ticket = endpoint.ticket.as_ref().map(|ticket| &ticket.ticket[..]);
        ticket::decode(ticket.unwrap_or_default())?;
    }
    let status = CancelStatus::NotCancellable.into();
    Ok(Bytes::from(CancelFlightInfoResult { status }.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use arrow_flight::{FlightEndpoint, FlightInfo, Ticket};

    use super::*;

    fn cancel(ticket: &'static str) -> Action {
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
        let info = FlightInfo::new().with_endpoint(endpoint);
        let body = CancelFlightInfoRequest { info: Some(info) }.encode_to_vec();
        Action { r#type: CANCEL_FLIGHT_INFO.to_owned(), body: body.into() }
    }

    #[test]
    fn cancelling_says_that_nothing_runs() {
        let result = do_action(&cancel(r#"{"read":{"table":"t"}}"#)).unwrap();
        let result = CancelFlightInfoResult::decode(result).unwrap();
        assert_eq!(result.status(), CancelStatus::NotCancellable);
        assert!(do_action(&cancel("of another server")).is_err());
    }

    #[test]
    fn unknown_actions_are_named() {
        let action = Action { r#type: "Reboot".to_owned(), body: Bytes::new() };
        assert!(do_action(&action).unwrap_err().message().contains("`Reboot`"));
        let broken = Action { r#type: CANCEL_FLIGHT_INFO.to_owned(), body: "\u{1}".into() };
        assert!(do_action(&broken).is_err());
    }
}
