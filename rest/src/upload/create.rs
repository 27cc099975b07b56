//! `POST /v1/uploads`: begins an upload.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CreateUpload {
    /// Whether the parts go to the store itself.
    direct: bool,
}

pub(crate) async fn create_upload(
    State(door): State<Door>,
    target: Target,
    StrictBody(CreateUpload { direct }): StrictBody<CreateUpload>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let id = door.service.create_upload(target.ctx(), direct).await?;
    let body = json!({ "id": id, "uri": format!("upload:{id}"), "offset": 0 });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}
