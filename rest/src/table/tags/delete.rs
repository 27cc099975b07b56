//! `POST /v1/table/{id}/tags/delete`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::OneTag;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn delete_tag(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneTag>,
) -> Result<Response, ApiError> {
    let tag = body.check(&target)?;
    door.service.delete_tag(target.ctx(), &target.table()?, &tag).await?;
    Ok(Json(json!({})).into_response())
}
