//! `GET /v1/models`: the models that are built into workers, offered by one that is attached, or registered.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn list_models(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let models = door.service.list_models(target.ctx()).await?;
    Ok(Json(json!({ "models": models })).into_response())
}
