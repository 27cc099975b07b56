//! `POST /v1/materialized_view/{id}/drop`: a materialized view goes, the table that it reads stays.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::OneView;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn drop_materialized_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    door.service.drop_materialized_view(target.ctx(), &target.table()?).await?;
    Ok(Json(json!({})).into_response())
}
