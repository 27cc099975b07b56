//! `POST /v1/table/{id}/resident/list`: the resident indexes of a table on this server, and how they are.

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
pub(crate) struct ListResident {
    id: Option<Vec<String>>,
}

pub(crate) async fn list_resident(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListResident>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let resident = door.service.list_resident_indexes(target.ctx(), &target.table()?).await?;
    Ok(Json(json!({ "resident": resident })).into_response())
}
