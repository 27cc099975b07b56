//! `POST /v1/table/{id}/page_cache/prewarm`: reads columns, so that their files lie in the caches.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::refused;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrewarmColumns {
    id: Option<Vec<String>>,
    branch: Option<String>,
    columns: Vec<String>,
}

pub(crate) async fn prewarm_columns(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<PrewarmColumns>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?.map(str::to_owned);
    let (service, table) = (&door.service, target.table()?);
    let job_id = service.prewarm_columns(target.ctx(), &table, branch, body.columns).await;
    let job_id = job_id.map_err(refused)?;
    Ok(Json(json!({ "job_id": job_id })).into_response())
}
