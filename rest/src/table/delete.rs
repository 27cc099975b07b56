//! `POST /v1/table/{id}/delete`: the rows for which a predicate is true.

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
pub(crate) struct DeleteRows {
    id: Option<Vec<String>>,
    predicate: Option<String>,
    branch: Option<String>,
}

pub(crate) async fn delete_rows(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DeleteRows>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let Some(predicate) = body.predicate.filter(|predicate| !predicate.trim().is_empty()) else {
        return Err(Error::invalid("field `predicate` is missing or empty").into());
    };
    let deleted =
        door.service.delete_rows(target.ctx(), &target.table()?, branch, &predicate).await;
    let (rows, version) = deleted.map_err(refused)?;
    Ok(versioned(json!({ "num_deleted_rows": rows, "version": version }), version))
}
