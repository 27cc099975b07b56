//! `POST /v1/table/{id}/row_sets/drop`: one version, or all of them.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::RowSetRef;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DropRowSet {
    id: Option<Vec<String>>,
    /// `NAME` or `NAME@VERSION`.
    name: String,
}

pub(crate) async fn drop_row_set(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropRowSet>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let wanted = RowSetRef::parse(&body.name)?;
    let dropped = door.service.drop_row_set(target.ctx(), &target.table()?, &wanted).await?;
    Ok(Json(json!({ "dropped": dropped })).into_response())
}
