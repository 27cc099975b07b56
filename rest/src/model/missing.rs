//! `POST /v1/model_files/missing`: which files have to be uploaded before a model is registered.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MissingBody {
    sha256: Vec<String>,
}

pub(crate) async fn missing_files(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<MissingBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let missing = door.service.missing_model_files(target.ctx(), &body.sha256).await?;
    Ok(Json(json!({ "missing": missing })).into_response())
}
