//! `POST /v1/table/{id}/branches/cherry_pick`: take the columns that a branch computed onto main.
//!
//! What more than columns changed is merged instead, see `merge.rs`. The SDKs read an answer of 409 as one
//! that was refused, with the reasons in it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::BranchName;
use lakebed_service::BranchMerge;
use serde::Deserialize;
use serde_json::json;

use super::diff::{added, answer, errors};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::versioned;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CherryPick {
    id: Option<Vec<String>>,
    from_branch: String,
    dry_run: bool,
}

pub(crate) async fn cherry_pick(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CherryPick>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = BranchName::parse(&body.from_branch)?;
    let (service, ctx, table) = (&door.service, target.ctx(), target.table()?);
    let compared = service.diff_branch(ctx, &table, &name, 0).await?;
    let promoted: Vec<&str> = added(&compared.diff).map(|it| it.name.as_str()).collect();
    let mut told = json!({
        "status": "ready",
        "diff": answer(&name, &compared),
        "preview": { "promotedColumns": promoted },
    });
    let version = compared.diff.parent_version;
    if !errors(&compared).is_empty() {
        told["status"] = "failed".into();
        told["preview"] = json!({ "promotedColumns": [] });
        return Ok((StatusCode::CONFLICT, Json(told)).into_response());
    }
    if body.dry_run {
        return Ok(versioned(told, version));
    }
    // Who changed main since the comparison is met: rows that came have nulls in the new columns.
    let merged = service.merge_branch(ctx, &table, &name, BranchMerge::default()).await?;
    if merged.is_refused {
        told["status"] = "failed".into();
        return Ok((StatusCode::CONFLICT, Json(told)).into_response());
    }
    let version = merged.version.unwrap_or(merged.diff.parent_version);
    told["status"] = "cherryPicked".into();
    told["mainVersionAfter"] = version.into();
    Ok(versioned(told, version))
}
