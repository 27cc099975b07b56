//! What a write answers once its rows are durable and visible.

use serde::{Deserialize, Serialize};

/// The receipt of one write, sent as `PutResult.app_metadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version that made the rows visible.
    pub version: u64,
    /// Rows that were received.
    pub rows: u64,
    /// Bytes of these rows, decoded, blobs included.
    pub bytes: u64,
    /// The write id of the request, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_id: Option<String>,
}
