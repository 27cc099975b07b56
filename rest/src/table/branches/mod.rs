//! Verbs on branches, one file each.

pub(crate) mod cherry_pick;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod list;
pub(crate) mod merge;

use lakebed_service::{BranchConflict, BranchDiff, RowCounts};
use serde_json::{Value, json};

/// What a difference says, in Lakebed's words; the SDKs' own are in `diff.rs`.
fn difference(diff: &BranchDiff) -> Value {
    json!({
        "parent": diff.parent.as_deref().unwrap_or("main"),
        "beginVersion": diff.begin_version,
        "parentVersion": diff.parent_version,
        "branchVersion": diff.branch_version,
        "parentRows": diff.parent_rows,
        "branchRows": diff.branch_rows,
        "parentChanges": diff.parent_changes.map(counts),
        "branchChanges": counts(diff.branch_changes),
        "updatedColumns": diff.updated_columns,
        "columns": diff.columns.iter().map(|column| json!({
            "name": column.name,
            "was": column.was,
            "parent": column.parent,
            "branch": column.branch,
        })).collect::<Vec<_>>(),
        "samples": diff.samples.iter().map(|row| json!({
            "change": row.kind.name(),
            "rowId": row.row_id,
            "columns": row.columns,
        })).collect::<Vec<_>>(),
        "conflicts": diff.conflicts.iter()
            .map(|(kind, count)| (kind.name().to_owned(), Value::from(*count)))
            .collect::<serde_json::Map<_, _>>(),
        "conflictSamples": diff.conflict_samples.iter().map(conflict).collect::<Vec<_>>(),
    })
}

fn counts(rows: RowCounts) -> Value {
    json!({ "inserted": rows.inserted, "updated": rows.updated, "deleted": rows.deleted })
}

fn conflict(conflict: &BranchConflict) -> Value {
    json!({
        "kind": conflict.kind.name(),
        "rowId": conflict.row_id,
        "column": conflict.column,
        "parent": conflict.parent,
        "branch": conflict.branch,
        "message": conflict.message,
    })
}
