//! `POST /v1/table/{id}/rename`: another name, in the same or another namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, TableId};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RenameTable {
    id: Option<Vec<String>>,
    new_table_name: String,
    /// As the SDKs call it.
    new_namespace: Option<Vec<String>>,
    /// As the specification calls it.
    new_namespace_id: Option<Vec<String>>,
}

pub(crate) async fn rename_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<RenameTable>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let from = target.table()?;
    if body.new_table_name.is_empty() {
        return Err(Error::invalid("field `new_table_name` is missing or empty").into());
    }
    let mut segments = match (body.new_namespace, body.new_namespace_id) {
        (Some(a), Some(b)) if a != b => {
            let message = "fields `new_namespace` and `new_namespace_id` are not the same";
            return Err(Error::invalid(message).into());
        }
        (Some(namespace), _) | (None, Some(namespace)) => namespace,
        (None, None) => from.namespace.segments().to_vec(),
    };
    segments.push(body.new_table_name);
    let to = TableId::from_segments(&from.database, &segments)?;
    door.service.rename_table(target.ctx(), &from, &to).await?;
    Ok(Json(json!({ "id": segments })).into_response())
}
