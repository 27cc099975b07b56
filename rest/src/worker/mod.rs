//! Workers that are attached.

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
