//! `POST /v1/table/{id}/index/{name}/prewarm`: loads an index into the cache.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrewarmIndex {
    id: Option<Vec<String>>,
}

pub(crate) async fn prewarm_index(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<PrewarmIndex>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = target.path("name")?;
    door.service.prewarm_index(target.ctx(), &target.table()?, name).await?;
    Ok(Json(json!({})).into_response())
}
