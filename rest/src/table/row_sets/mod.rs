//! Verbs on row sets, one file each.

pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod drop_row_set;
pub(crate) mod list;
pub(crate) mod rows;

use lakebed_service::RowSet;
use serde_json::{Value, json};

/// A row set as answers show it.
fn shown(set: &RowSet) -> Value {
    json!({
        "name": set.name,
        "version": set.version,
        "description": set.description,
        "made_from": set.made_from,
        "branch": set.branch,
        "table_version": set.table_version,
        "rows": set.rows,
        "bytes": set.bytes,
        "created_at_ms": set.created_at_ms,
    })
}
