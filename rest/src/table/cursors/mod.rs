//! Verbs on cursors, one file each.

pub(crate) mod advance;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;

use lakebed_service::Cursor;
use serde_json::{Value, json};

/// A cursor as answers show it.
fn shown(cursor: &Cursor) -> Value {
    json!({
        "name": cursor.name,
        "branch": cursor.branch,
        "version": cursor.version,
        "created_at_ms": cursor.created_at_ms,
        "moved_at_ms": cursor.moved_at_ms,
    })
}
