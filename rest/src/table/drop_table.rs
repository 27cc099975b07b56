//! `POST /v1/table/{id}/drop`: a table with all its versions.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DropTable {
    id: Option<Vec<String>>,
}

pub(crate) async fn drop_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropTable>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let table = target.table()?;
    door.service.drop_table(target.ctx(), &table).await?;
    let mut id = table.namespace.segments().to_vec();
    id.push(table.name.as_str().to_owned());
    Ok(Json(json!({ "id": id })).into_response())
}
