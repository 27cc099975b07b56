//! `POST /v1/table/{id}/update`: new values for columns of the rows for which a predicate is true.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UpdateRows {
    id: Option<Vec<String>>,
    predicate: Option<String>,
    /// Pairs of a column and a SQL expression.
    updates: Vec<(String, String)>,
    branch: Option<String>,
    /// Of the specification: properties that are kept with the table, of which there are none.
    properties: Option<Map<String, Value>>,
}

pub(crate) async fn update_rows(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<UpdateRows>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    super::no_properties(body.properties.as_ref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let predicate = body.predicate.as_deref().filter(|predicate| !predicate.is_empty());
    let (rows, version) = door
        .service
        .update_rows(target.ctx(), &target.table()?, branch, predicate, &body.updates)
        .await
        .map_err(refused)?;
    let mut answer = json!({ "rows_updated": rows, "version": version });
    // The specification's name; the SDK for Rust knows both and refuses an answer that has them.
    if !target.is_sdk() {
        answer["updated_rows"] = rows.into();
    }
    Ok(versioned(answer, version))
}
