//! `POST /v1/jobs/submit`: begins to compute a column.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, TableId};
use lakebed_service::{JobTerms, Labels, Resources, SubmitJob};
use serde::Deserialize;
use serde_json::json;

use super::state;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SubmitBody {
    table: Option<String>,
    input: Option<String>,
    output: Option<String>,
    model: Option<String>,
    #[serde(rename = "where")]
    filter: Option<String>,
    row_set: Option<String>,
    recompute: Option<bool>,
    task_rows: Option<u32>,
    priority: Option<i32>,
    max_workers: Option<u32>,
    labels: Option<Labels>,
    resources: Option<Resources>,
    timeout_s: Option<u64>,
}

pub(crate) async fn submit_job(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<SubmitBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let given = |field: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty());
        value.ok_or_else(|| Error::invalid(format!("field `{field}` is missing")))
    };
    let table = TableId::parse(&target.ctx().database, &given("table", body.table)?)?;
    let command = SubmitJob {
        input: given("input", body.input)?,
        output: given("output", body.output)?,
        model: given("model", body.model)?,
        filter: body.filter.filter(|filter| !filter.is_empty()),
        row_set: body.row_set.filter(|row_set| !row_set.is_empty()),
        recompute: body.recompute.unwrap_or_default(),
        task_rows: body.task_rows,
        terms: JobTerms {
            priority: body.priority.unwrap_or_default(),
            max_workers: body.max_workers,
            labels: body.labels.unwrap_or_default(),
            resources: body.resources.unwrap_or_default(),
            timeout_s: body.timeout_s,
        },
    };
    let job = door.service.submit_job(target.ctx(), &table, command).await?;
    let answer = json!({ "job_id": job.job_id, "job_state": state(job.state), "spec": job.spec });
    Ok(Json(answer).into_response())
}
