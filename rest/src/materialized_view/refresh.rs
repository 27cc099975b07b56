//! `POST /v1/materialized_view/{id}/refresh`: a materialized view shows what its table has by now.

use axum::extract::State;
use axum::response::Response;
use lakebed_service::RefreshView;
use serde::Deserialize;

use super::begun;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RefreshMaterializedView {
    id: Option<Vec<String>>,
    full: Option<bool>,
    source_version: Option<u64>,
}

pub(crate) async fn refresh_materialized_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<RefreshMaterializedView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let full = body.full.unwrap_or_default();
    let rule = RefreshView { full, source_version: body.source_version };
    let job_id =
        door.service.refresh_materialized_view(target.ctx(), &target.table()?, rule).await?;
    Ok(begun(&job_id))
}
