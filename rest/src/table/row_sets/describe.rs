//! `POST /v1/table/{id}/row_sets/describe`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::RowSetRef;
use serde::Deserialize;

use super::shown;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DescribeRowSet {
    id: Option<Vec<String>>,
    /// `NAME` or `NAME@VERSION`.
    name: String,
}

pub(crate) async fn describe_row_set(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DescribeRowSet>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let wanted = RowSetRef::parse(&body.name)?;
    let set = door.service.describe_row_set(target.ctx(), &target.table()?, &wanted).await?;
    Ok(Json(shown(&set)).into_response())
}
