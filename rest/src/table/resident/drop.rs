//! `POST /v1/table/{id}/resident/drop`.

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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DropResident {
    id: Option<Vec<String>>,
    branch: Option<String>,
    column: String,
}

pub(crate) async fn drop_resident(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropResident>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?.map(str::to_owned);
    let (service, table) = (&door.service, target.table()?);
    let gone = service.drop_resident_index(target.ctx(), &table, branch, &body.column);
    gone.await.map_err(refused)?;
    Ok(Json(json!({})).into_response())
}
