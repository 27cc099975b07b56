//! `GET` or `POST /v1/table/{id}/cursors/list`.

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
pub(crate) struct ListCursors {
    id: Option<Vec<String>>,
}

pub(crate) async fn list_cursors(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListCursors>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let cursors = door.service.list_cursors(target.ctx(), &target.table()?).await?;
    let cursors: Vec<Value> = cursors.iter().map(shown).collect();
    Ok(Json(json!({ "cursors": cursors })).into_response())
}
