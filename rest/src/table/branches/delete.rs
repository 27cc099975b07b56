//! `POST /v1/table/{id}/branches/delete`.

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
pub(crate) struct DeleteBranch {
    id: Option<Vec<String>>,
    name: String,
}

pub(crate) async fn delete_branch(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DeleteBranch>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = BranchName::parse(&body.name)?;
    door.service.delete_branch(target.ctx(), &target.table()?, &name).await?;
    Ok(Json(json!({})).into_response())
}
