//! `POST /v1/table/{id}/tags/create`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
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
    door.service.create_tag(target.ctx(), &target.table()?, &tag, branch, version).await?;
    Ok(Json(json!({})).into_response())
}
