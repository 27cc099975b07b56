//! `POST /v1/jobs/pause` and `/v1/jobs/resume`: gives out no more tasks of a job, and goes on with it.

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
pub(crate) struct PauseJob {
    job_id: Option<String>,
}

pub(crate) async fn pause_job(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<PauseJob>,
) -> Result<Response, ApiError> {
    set_paused(&door, &target, body, true).await
}

pub(crate) async fn resume_job(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<PauseJob>,
) -> Result<Response, ApiError> {
    set_paused(&door, &target, body, false).await
}

async fn set_paused(
    door: &Door,
    target: &Target,
    body: PauseJob,
    is_paused: bool,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    door.service.pause_job(target.ctx(), &job_id(body.job_id)?, is_paused).await?;
    Ok(Json(json!({})).into_response())
}
