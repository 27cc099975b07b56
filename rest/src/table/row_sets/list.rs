//! `GET` or `POST /v1/table/{id}/row_sets/list`: the newest version of each, or all with
//! `"all_versions": true`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::shown;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListRowSets {
    id: Option<Vec<String>>,
    all_versions: Option<bool>,
}

pub(crate) async fn list_row_sets(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListRowSets>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let all = body.all_versions.unwrap_or_default();
    let sets = door.service.list_row_sets(target.ctx(), &target.table()?, all).await?;
    let sets: Vec<Value> = sets.iter().map(shown).collect();
    Ok(Json(json!({ "row_sets": sets })).into_response())
}
