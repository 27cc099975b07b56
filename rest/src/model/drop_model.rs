//! `POST /v1/models/{model}/drop`: a version of a model goes, or all of it.

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
pub(crate) struct DropBody {
    version: Option<u64>,
    force: bool,
}

pub(crate) async fn drop_model(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let model = target.path("model")?;
    door.service.drop_model(target.ctx(), model, body.version, body.force).await?;
    Ok(Json(json!({})).into_response())
}
