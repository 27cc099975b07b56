//! `POST /v1/table/{id}/branches/create`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::BranchName;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CreateBranch {
    id: Option<Vec<String>>,
    name: String,
    from_branch: Option<String>,
    from_version: Option<u64>,
}

pub(crate) async fn create_branch(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateBranch>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = BranchName::parse(&body.name)?;
    let from = body.from_branch.as_deref();
    let (service, ctx, table) = (&door.service, target.ctx(), target.table()?);
    let version = service.create_branch(ctx, &table, &name, from, body.from_version).await?;
    let parent = from.unwrap_or("main");
    let answer = json!({ "name": name.as_str(), "parentBranch": parent, "parentVersion": version });
    Ok(Json(answer).into_response())
}
