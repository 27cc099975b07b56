//! ListActions: what DoAction takes.

use arrow_flight::ActionType;

use lakebed_proto::worker::{FUNCTION_ACTION, MODEL_ACTION, MODEL_FILE_ACTION, SYNC_ACTION};

use crate::do_action::CANCEL_FLIGHT_INFO;
use crate::sql::ACTIONS;

const CANCEL: (&str, &str) = (
    CANCEL_FLIGHT_INFO,
    "Give up a FlightInfo: a query of it is cancelled; of a read nothing runs before DoGet, and leases \
     end by themselves.",
);

const SYNC: (&str, &str) = (
    SYNC_ACTION,
    "A worker's report: what it holds, what it ended, what it can take. The body is a SyncRequest, the \
     result a SyncResponse.",
);

const FUNCTION: (&str, &str) = (
    FUNCTION_ACTION,
    "The function that an attempt of a worker is to run. The body is an AttemptId, the result is JSON.",
);

const MODEL: (&str, &str) = (
    MODEL_ACTION,
    "The registered model that an attempt of a worker is to run. The body is an AttemptId, the result is \
     JSON.",
);

const MODEL_FILE: (&str, &str) = (
    MODEL_FILE_ACTION,
    "A piece of a file of that model. The body is a ModelFileRequest, the result its bytes.",
);

/// Every action with what it does.
pub(crate) fn list_actions() -> Vec<ActionType> {
    [CANCEL, SYNC, FUNCTION, MODEL, MODEL_FILE]
        .into_iter()
        .chain(ACTIONS)
        .map(|(name, text)| ActionType { r#type: name.to_owned(), description: text.to_owned() })
        .collect()
}
