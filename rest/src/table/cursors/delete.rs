//! `POST /v1/table/{id}/cursors/delete`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::CursorName;
use serde::Deserialize;

use super::shown;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeleteCursor {
    id: Option<Vec<String>>,
    name: String,
}

pub(crate) async fn delete_cursor(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DeleteCursor>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = CursorName::parse(&body.name)?;
    let cursor = door.service.delete_cursor(target.ctx(), &target.table()?, &name).await?;
    Ok(Json(shown(&cursor)).into_response())
}
