//! `POST /v1/table/{id}/branches/diff`: how a branch differs from the one that it began on.
//!
//! The answer is what the SDKs read, which is about columns that a branch computed for its parent's
//! rows, and under `difference` what Lakebed knows beyond that.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{BranchName, Error};
use lakebed_service::{BranchDiff, ColumnChange, ComparedBranch, IndexSummary};
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

/// The difference in the SDKs' form, with Lakebed's own beside it.
pub(super) fn answer(name: &BranchName, compared: &ComparedBranch) -> Value {
    let diff = &compared.diff;
    let parent_changes = diff.parent_changes.unwrap_or_default();
    let branch_changes = diff.branch_changes;
    let removed = diff.columns.iter().filter(|column| column.branch.is_none());
    let removed: Vec<Value> = removed.filter_map(on_parent).collect();
    let changed: Vec<Value> = diff
        .columns
        .iter()
        .filter(|column| column.parent != column.branch)
        .filter_map(|column| {
            let (main, branch) = (on_parent(column)?, on_branch(column)?);
            Some(json!({ "name": column.name, "main": main, "branch": branch }))
        })
        .collect();
    let (added_indexes, removed_indexes) = indexes(compared);
    json!({
        "fromBranch": name.as_str(),
        "parentVersion": diff.begin_version,
        "mainVersion": diff.parent_version,
        "branchVersion": diff.branch_version,
        "baseMoved": has_moved(diff),
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
        "addedColumns": added(diff).filter_map(on_branch).collect::<Vec<_>>(),
        "removedColumns": removed,
        "changedColumns": changed,
        "addedIndexes": added_indexes,
        "removedIndexes": removed_indexes,
        "errors": errors(compared),
        "difference": difference(diff),
    })
}

/// The columns that only the branch has, because it added them.
pub(super) fn added(diff: &BranchDiff) -> impl Iterator<Item = &ColumnChange> {
    let is_added =
        |it: &&ColumnChange| it.was.is_none() && it.parent.is_none() && it.branch.is_some();
    diff.columns.iter().filter(is_added)
}

fn on_parent(column: &ColumnChange) -> Option<Value> {
    let data_type = column.parent.as_ref()?;
    let nullable = column.nullable_on_parent;
    Some(json!({ "name": column.name, "dataType": data_type, "nullable": nullable }))
}

fn on_branch(column: &ColumnChange) -> Option<Value> {
    let data_type = column.branch.as_ref()?;
    let nullable = column.nullable_on_branch;
    Some(json!({ "name": column.name, "dataType": data_type, "nullable": nullable }))
}

fn has_moved(diff: &BranchDiff) -> bool {
    diff.parent_version != diff.begin_version
}

/// Why the columns that the branch added cannot be taken over as they are, in the SDKs' codes.
pub(super) fn errors(compared: &ComparedBranch) -> Vec<Value> {
    let diff = &compared.diff;
    let (ours, theirs) = (diff.parent_changes.unwrap_or_default(), diff.branch_changes);
    let removed = diff.columns.iter().any(|it| it.parent.is_some() && it.branch.is_none());
    let changed = diff
        .columns
        .iter()
        .any(|it| it.parent.is_some() && it.branch.is_some() && it.parent != it.branch);
    let has_edits =
        diff.updated_columns.keys().any(|name| !added(diff).any(|column| column.name == *name));
    let has_added = added(diff).next().is_some();
    let is_same = theirs == Default::default() && diff.columns.is_empty();
    let found = [
        (diff.parent.is_some(), "parentNotMain", "the branch did not begin on main"),
        (has_moved(diff), "baseMoved", "the parent has newer versions than the branch began with"),
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

/// The indexes that only the branch has, and those that only its parent has.
fn indexes(compared: &ComparedBranch) -> (Vec<Value>, Vec<Value>) {
    let lacking = |these: &[IndexSummary], others: &[IndexSummary]| -> Vec<Value> {
        let by_name: BTreeMap<&str, &IndexSummary> =
            these.iter().map(|index| (index.name.as_str(), index)).collect();
        let is_alone = |index: &&&IndexSummary| others.iter().all(|it| it.name != index.name);
        by_name
            .values()
            .filter(is_alone)
            .map(|index| {
                json!({
                    "indexName": index.name,
                    "columns": index.columns,
                    "indexType": index.index_type,
                    "status": "done",
                })
            })
            .collect()
    };
    let (ours, theirs) = (&compared.parent_indexes, &compared.branch_indexes);
    (lacking(theirs, ours), lacking(ours, theirs))
}
