//! `POST /v1/secret/{id}/drop`: a secret goes; functions that are bound to it fail.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::OneSecret;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn drop_secret(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneSecret>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    door.service.drop_secret(target.ctx(), &target.table()?).await?;
    Ok(Json(json!({})).into_response())
}
