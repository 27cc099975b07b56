//! `POST /v1/table/{id}/cursors/create`: the latest version is done with, or the one that is given.

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
pub(crate) struct CreateCursor {
    id: Option<Vec<String>>,
    name: String,
    branch: Option<String>,
    version: Option<u64>,
}

pub(crate) async fn create_cursor(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateCursor>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let name = CursorName::parse(&body.name)?;
    let branch = target.branch(body.branch.as_deref())?;
    let table = target.table()?;
    let cursor =
        door.service.create_cursor(target.ctx(), &table, &name, branch, body.version).await?;
    Ok(Json(shown(&cursor)).into_response())
}
