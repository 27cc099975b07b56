//! `POST /v1/jobs/describe`: one job.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::{job_id, state};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DescribeJob {
    job_id: Option<String>,
}

pub(crate) async fn describe_job(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DescribeJob>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let job = door.service.describe_job(target.ctx(), &job_id(body.job_id)?).await?;
    let mut answer = json!({
        "job_id": job.job_id,
        "job_type": job.job_type,
        "job_state": state(job.state),
        "creation_ms": job.created_at_ms,
        "table": job.table,
        "spec": job.spec,
    });
    if let Some(progress) = door.service.job_progress(&job) {
        answer["progress"] = json!(progress);
    }
    if let Some(counts) = door.service.backup_progress(&job.job_id) {
        answer["progress"] = json!(counts);
    }
    if let Some(ended_at_ms) = job.ended_at_ms {
        answer["ended_ms"] = ended_at_ms.into();
    }
    if let Some(result) = job.result {
        answer["result"] = result;
    }
    if let Some(message) = job.failure {
        answer["failure"] = json!({ "message": message });
    }
    Ok(Json(answer).into_response())
}
