//! What a ticket of a planned statement holds.

use lakebed_service::SqlPart;
use serde::{Deserialize, Serialize};

use super::parameters::SealedParameters;

/// A planned statement and the values of its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlTicket {
    /// What runs it.
    pub(crate) part: SqlPart,
    /// What its parameters stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<SealedParameters>,
}
