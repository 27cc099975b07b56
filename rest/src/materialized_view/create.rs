//! `POST /v1/materialized_view/{id}/create`: a query over a table becomes a table of its own.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::{begun, refused};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateMaterializedView {
    #[serde(default)]
    id: Option<Vec<String>>,
    query: String,
    #[serde(default)]
    with_no_data: Option<bool>,
}

pub(crate) async fn create_materialized_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateMaterializedView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let empty = body.with_no_data.unwrap_or_default();
    let (ctx, id) = (target.ctx(), target.table()?);
    let begins = door.service.create_materialized_view(ctx, &id, &body.query, empty);
    Ok(begun(&begins.await.map_err(refused)?))
}
