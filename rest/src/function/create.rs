//! `POST /v1/function/{id}/create`: a job registers a version of a function.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_service::Registration;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn create_function(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Registration>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let job_id = door.service.create_function(target.ctx(), &target.table()?, body).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job_id": job_id }))).into_response())
}
