//! `POST /v1/table/{id}/tags/create`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::ErrorKind;
use serde_json::json;

use super::TagAndVersion;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn create_tag(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<TagAndVersion>,
) -> Result<Response, ApiError> {
    let (tag, branch, version) = body.check(&target)?;
    let created =
        door.service.create_tag(target.ctx(), &target.table()?, &tag, branch, version).await;
    created.map_err(|error| {
        let is_taken = error.kind() == ErrorKind::AlreadyExists;
        let answer = ApiError::from(error);
        // The SDKs try again what is answered by 409, and then tell nothing of the reason.
        match is_taken && target.is_sdk() {
            true => answer.with_status(StatusCode::BAD_REQUEST),
            false => answer,
        }
    })?;
    Ok(Json(json!({})).into_response())
}
