//! Workers that are attached, and the models that they offer.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

/// `GET /v1/workers`: the workers that were heard of within the last minute.
pub(crate) async fn list_workers(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let workers = door.service.list_workers(target.ctx())?;
    Ok(Json(json!({ "workers": workers })).into_response())
}

/// `GET /v1/models`: the models that are built into the worker, or offered by one that is attached.
pub(crate) async fn list_models(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let models = door.service.list_models(target.ctx())?;
    Ok(Json(json!({ "models": models })).into_response())
}
