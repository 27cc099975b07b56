//! `POST /v1/table/{id}/backfill_column`: a job fills the rows of a computed column.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Error;
use lakebed_service::{JobTerms, Labels, RefreshRule, Resources};
use serde::Deserialize;
use serde_json::json;

use super::refused;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BackfillColumn {
    id: Option<Vec<String>>,
    column: Option<String>,
    branch: Option<String>,
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

pub(crate) async fn backfill_column(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<BackfillColumn>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let column = body.column.filter(|column| !column.is_empty());
    let column = column.ok_or_else(|| Error::invalid("field `column` is missing"))?;
    let rule = RefreshRule {
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
        is_automatic: false,
    };
    let job_id = door
        .service
        .refresh_column(target.ctx(), &target.table()?, branch, &column, rule)
        .await
        .map_err(refused)?;
    Ok(Json(json!({ "job_id": job_id })).into_response())
}
