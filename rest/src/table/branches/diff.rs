//! `POST /v1/table/{id}/branches/diff`: how a branch differs from the one that it began on.
//!
//! The answer is what the SDKs read, which is about columns that a branch computed for its parent's
//! rows, and under `difference` what Lakebed knows beyond that.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{BranchName, Error};
use lakebed_service::{ComparedBranch, IndexSummary};
use serde::Deserialize;
use serde_json::{Value, json};

use super::difference;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

/// Changed rows and conflicts that are named where nothing else is asked for.
const SAMPLES: usize = 10;
/// The most that may be asked for.
const SAMPLES_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Diff {
    id: Option<Vec<String>>,
    from_branch: String,
    samples: Option<usize>,
}

pub(crate) async fn diff_branch(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Diff>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = BranchName::parse(&body.from_branch)?;
    let samples = body.samples.unwrap_or(SAMPLES);
    if samples > SAMPLES_MAX {
        let message = format!("`samples` is {samples}; it may be at most {SAMPLES_MAX}");
        return Err(Error::invalid(message).into());
    }
    let (service, ctx, table) = (&door.service, target.ctx(), target.table()?);
    let compared = service.diff_branch(ctx, &table, &name, samples).await?;
    Ok(Json(answer(&name, &compared)).into_response())
}

fn answer(name: &BranchName, compared: &ComparedBranch) -> Value {
    let diff = &compared.diff;
    let parent_changes = diff.parent_changes.unwrap_or_default();
    let branch_changes = diff.branch_changes;
    let is_added = |column: &&lakebed_service::ColumnChange| {
        column.was.is_none() && column.parent.is_none() && column.branch.is_some()
    };
    let added: Vec<Value> = diff
        .columns
        .iter()
        .filter(is_added)
        .map(|column| {
            json!({
                "name": column.name,
                "dataType": column.branch,
                "nullable": column.nullable,
            })
        })
        .collect();
    let removed: Vec<&str> = diff
        .columns
        .iter()
        .filter(|column| column.parent.is_some() && column.branch.is_none())
        .map(|column| column.name.as_str())
        .collect();
    let changed: Vec<Value> = diff
        .columns
        .iter()
        .filter(|column| column.parent.is_some() && column.branch.is_some())
        .filter(|column| column.parent != column.branch)
        .map(
            |column| json!({ "name": column.name, "main": column.parent, "branch": column.branch }),
        )
        .collect();
    let (added_indexes, removed_indexes) = indexes(compared);
    let base_moved = diff.parent_version != diff.begin_version;
    json!({
        "fromBranch": name.as_str(),
        "parentVersion": diff.begin_version,
        "mainVersion": diff.parent_version,
        "branchVersion": diff.branch_version,
        "baseMoved": base_moved,
        "rowCountMain": diff.parent_rows,
        "rowCountBranch": diff.branch_rows,
        "rowSummary": {
            "unchanged": diff.branch_rows
                .saturating_sub(branch_changes.inserted)
                .saturating_sub(branch_changes.updated),
            "newOnBase": parent_changes.inserted,
            "newOnBranch": branch_changes.inserted,
            // Which columns a function computes from which others is not recorded yet.
            "staleRecompute": 0,
            "inputsChanged": 0,
            "deltaAvailable": true,
        },
        "addedColumns": added,
        "removedColumns": removed,
        "changedColumns": changed,
        "addedIndexes": added_indexes,
        "removedIndexes": removed_indexes,
        "errors": errors(compared, base_moved),
        "difference": difference(diff),
    })
}

/// Why the columns that the branch added cannot be taken over as they are, in the SDKs' codes.
fn errors(compared: &ComparedBranch, base_moved: bool) -> Vec<Value> {
    let diff = &compared.diff;
    let (ours, theirs) = (diff.parent_changes.unwrap_or_default(), diff.branch_changes);
    let added = |column: &lakebed_service::ColumnChange| {
        column.was.is_none() && column.parent.is_none() && column.branch.is_some()
    };
    let removed = diff.columns.iter().any(|it| it.parent.is_some() && it.branch.is_none());
    let changed = diff
        .columns
        .iter()
        .any(|it| it.parent.is_some() && it.branch.is_some() && it.parent != it.branch);
    let has_edits = diff
        .updated_columns
        .keys()
        .any(|name| !diff.columns.iter().any(|column| column.name == *name && added(column)));
    let has_added = diff.columns.iter().any(added);
    let is_same = theirs == Default::default() && diff.columns.is_empty();
    let found = [
        (diff.parent.is_some(), "parentNotMain", "the branch did not begin on main"),
        (base_moved, "baseMoved", "the parent has newer versions than the branch began with"),
        (diff.parent_rows != diff.branch_rows, "rowCountMismatch", "the numbers of rows differ"),
        (
            theirs.inserted + theirs.deleted + ours.inserted + ours.deleted > 0 || has_edits,
            "rowsChanged",
            "rows were inserted, edited or deleted; merge the branch instead",
        ),
        (removed, "columnRemoved", "the branch lacks a column of its parent"),
        (changed, "columnChanged", "a column has another type on the branch"),
        (is_same, "nothingToApply", "the branch changed nothing"),
        (!is_same && !has_added, "noColumnChanges", "the branch added no column"),
    ];
    found
        .into_iter()
        .filter(|(is_so, _, _)| *is_so)
        .map(|(_, code, message)| json!({ "code": code, "message": message }))
        .collect()
}

fn indexes(compared: &ComparedBranch) -> (Vec<Value>, Vec<&str>) {
    let by_name = |indexes: &[IndexSummary]| -> BTreeMap<String, IndexSummary> {
        indexes.iter().map(|index| (index.name.clone(), index.clone())).collect()
    };
    let (ours, theirs) = (by_name(&compared.parent_indexes), by_name(&compared.branch_indexes));
    let added = theirs
        .values()
        .filter(|index| !ours.contains_key(&index.name))
        .map(|index| {
            json!({
                "indexName": index.name,
                "columns": index.columns,
                "indexType": index.index_type,
                "status": "done",
            })
        })
        .collect();
    let removed = compared
        .parent_indexes
        .iter()
        .map(|index| index.name.as_str())
        .filter(|name| !theirs.contains_key(*name))
        .collect();
    (added, removed)
}
