//! `POST /v1/jobs/list`: the jobs of the database, newest first.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Error;
use lakebed_service::Job;
use serde::Deserialize;
use serde_json::{Value, json};

use super::state;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

const PAGE_DEFAULT: u64 = 100;
const PAGE_MAX: u64 = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListJobs {
    page_token: Option<String>,
    limit: Option<u64>,
}

pub(crate) async fn list_jobs(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListJobs>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    if body.limit == Some(0) {
        return Err(Error::invalid("`limit` is 0; it has to be at least 1").into());
    }
    let limit = body.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX) as usize;
    let jobs = door.service.list_jobs(target.ctx()).await?;
    // The token is the last job of the page before; ids fall with age.
    let before = body.page_token.filter(|token| !token.is_empty());
    let mut rest =
        jobs.iter().skip_while(|job| before.as_deref().is_some_and(|id| job.job_id.as_str() >= id));
    let page: Vec<&Job> = rest.by_ref().take(limit).collect();
    let entries: Vec<Value> = page.iter().map(|job| entry(job)).collect();
    let mut answer = json!({ "jobs": entries });
    if rest.next().is_some()
        && let Some(last) = page.last()
    {
        answer["page_token"] = Value::from(last.job_id.clone());
    }
    Ok(Json(answer).into_response())
}

fn entry(job: &Job) -> Value {
    json!({
        "job_id": job.job_id,
        "table": job.table,
        "job_type": job.job_type,
        "state": state(job.state),
        "created_at_millis": job.created_at_ms,
    })
}
