//! `POST /v1/table/{id}/branches/merge`: take what a branch changed into the one that it began on.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::BranchName;
use lakebed_service::{BranchMerge, MergeSides};
use serde::Deserialize;
use serde_json::json;

use super::{counts, difference};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::versioned;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnConflict {
    /// Nothing is merged.
    #[default]
    Refuse,
    /// The parent's changes count.
    Parent,
    /// The branch's changes count.
    Branch,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Merge {
    id: Option<Vec<String>>,
    from_branch: String,
    on_conflict: OnConflict,
    on: Option<Vec<String>>,
    fast_forward_only: bool,
    dry_run: bool,
}

pub(crate) async fn merge_branch(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Merge>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = BranchName::parse(&body.from_branch)?;
    let merge = BranchMerge {
        sides: match body.on_conflict {
            OnConflict::Refuse => MergeSides::Neither,
            OnConflict::Parent => MergeSides::Parent,
            OnConflict::Branch => MergeSides::Branch,
        },
        on: body.on,
        fast_forward_only: body.fast_forward_only,
        is_dry_run: body.dry_run,
    };
    let (service, ctx, table) = (&door.service, target.ctx(), target.table()?);
    let merged = service.merge_branch(ctx, &table, &name, merge).await?;
    let status = match merged.version {
        Some(_) => "merged",
        None if merged.is_refused => "conflicts",
        None if merged.is_repeat => "already_merged",
        None if body.dry_run => "ready",
        None => "nothing_to_merge",
    };
    let version = merged.version.unwrap_or(merged.diff.parent_version);
    let mut answer = json!({
        "status": status,
        "version": version,
        "rows": counts(merged.rows),
        "difference": difference(&merged.diff),
    });
    if merged.is_refused && !body.dry_run {
        answer["error"] = "the branch and its parent contradict each other".into();
        return Ok((StatusCode::CONFLICT, Json(answer)).into_response());
    }
    Ok(versioned(answer, version))
}
