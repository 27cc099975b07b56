//! `POST /v1/table/{id}/drop_columns`.

use axum::extract::State;
use axum::response::Response;
use lakebed_core::Error;
use serde::Deserialize;
use serde_json::json;

use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DropColumns {
    id: Option<Vec<String>>,
    branch: Option<String>,
    columns: Vec<String>,
}

pub(crate) async fn drop_columns(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropColumns>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    if body.columns.is_empty() {
        return Err(Error::invalid("field `columns` is missing or empty").into());
    }
    let version = door
        .service
        .drop_columns(target.ctx(), &target.table()?, branch, &body.columns)
        .await
        .map_err(refused)?;
    Ok(versioned(json!({ "version": version }), version))
}
