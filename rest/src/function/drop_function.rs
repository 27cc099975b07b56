//! `POST /v1/function/{id}/drop`: a function goes with all its versions, the values that it computed stay.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::OneVersion;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn drop_function(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneVersion>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let (id, number) = (target.table()?, body.number()?);
    let dropped = door.service.drop_function(target.ctx(), &id, number).await?;
    Ok(Json(json!({ "dropped": dropped })).into_response())
}
