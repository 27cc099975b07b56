//! ListActions: what DoAction takes.

use arrow_flight::ActionType;

use crate::do_action::CANCEL_FLIGHT_INFO;

/// Every action with what it does.
pub(crate) fn list_actions() -> Vec<ActionType> {
    vec![ActionType {
        r#type: CANCEL_FLIGHT_INFO.to_owned(),
        description: "Give up a FlightInfo. Nothing runs before DoGet, so nothing is cancelled; \
                      leases end by themselves."
            .to_owned(),
    }]
}
