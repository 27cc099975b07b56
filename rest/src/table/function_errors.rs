//! `POST /v1/table/{id}/errors`: the rows that functions gave no value, and why.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

/// Rows that are told unless more are asked for; the SDKs' own.
const LIMIT: usize = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FunctionErrors {
    id: Option<Vec<String>>,
    job_id: Option<String>,
    column: Option<String>,
    limit: Option<usize>,
    branch: Option<String>,
}

pub(crate) async fn function_errors(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<FunctionErrors>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    // Jobs run on main, so a branch has no errors of its own.
    let branch = target.branch(body.branch.as_deref())?;
    let (job_id, column) = (body.job_id.as_deref(), body.column.as_deref());
    let limit = if branch.is_some() { 0 } else { body.limit.unwrap_or(LIMIT) };
    let table = target.table()?;
    let found = door.service.function_failures(target.ctx(), &table, job_id, column, limit).await?;
    let truncated = found.truncated && branch.is_none();
    let answer = json!({ "records": found.records, "fragments": [], "truncated": truncated });
    Ok(Json(answer).into_response())
}
