//! `POST /v1/table/{id}/deregister`: take a table out of the catalogue and leave its data.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::describe::location;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeregisterTable {
    id: Option<Vec<String>>,
}

pub(crate) async fn deregister_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DeregisterTable>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let table = target.table()?;
    let relative = door.service.deregister_table(target.ctx(), &table).await?;
    let mut id = table.namespace.segments().to_vec();
    id.push(table.name.as_str().to_owned());
    let location = location(&door, &target, &relative);
    Ok(Json(json!({ "id": id, "location": location })).into_response())
}
