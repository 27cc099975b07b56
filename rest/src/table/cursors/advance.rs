//! `POST /v1/table/{id}/cursors/advance`: everything up to a version is done with.
//!
//! With `expected` the cursor moves only from there, so that of two readers of one cursor the second gets
//! a conflict instead of skipping what the first one does.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{CursorName, Error};
use serde::Deserialize;

use super::shown;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdvanceCursor {
    id: Option<Vec<String>>,
    name: String,
    version: Option<u64>,
    expected: Option<u64>,
}

pub(crate) async fn advance_cursor(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<AdvanceCursor>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = CursorName::parse(&body.name)?;
    let version = body.version.ok_or_else(|| {
        Error::invalid("field `version` is missing: up to where everything is done with")
    })?;
    let table = target.table()?;
    let moved = door.service.advance_cursor(target.ctx(), &table, &name, version, body.expected);
    Ok(Json(shown(&moved.await?)).into_response())
}
