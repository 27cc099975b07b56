//! What a ticket of a planned statement holds.

use lakebed_service::SqlPart;
use serde::{Deserialize, Serialize};

/// A planned statement and the values of its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlTicket {
    /// What runs it.
    pub(crate) part: SqlPart,
}
