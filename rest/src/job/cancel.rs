//! `POST /v1/jobs/cancel`: calls a job off.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::job_id;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CancelJob {
    job_id: Option<String>,
}

pub(crate) async fn cancel_job(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CancelJob>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    door.service.cancel_job(target.ctx(), &job_id(body.job_id)?).await?;
    Ok(Json(json!({})).into_response())
}
