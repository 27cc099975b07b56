//! `POST /v1/table/{id}/clone`: a table that begins with a version of another and shares its files.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, ErrorKind};
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::describe::location;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CloneTable {
    id: Option<Vec<String>>,
    source_location: String,
    source_version: Option<u64>,
    source_tag: Option<String>,
    is_shallow: Option<bool>,
}

pub(crate) async fn clone_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CloneTable>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    if body.is_shallow == Some(false) {
        let message = "Deep clone is not yet implemented (`is_shallow` = false)";
        return Err(Error::new(ErrorKind::NotImplemented, message).into());
    }
    let at = ReadCommand {
        version: body.source_version,
        tag: body.source_tag.filter(|tag| !tag.is_empty()),
        ..ReadCommand::default()
    };
    let (service, table) = (&door.service, target.table()?);
    let cloned = service.clone_table(target.ctx(), &table, &body.source_location, &at).await?;
    let location = location(&door, &target, &cloned.location);
    Ok(Json(json!({ "location": location, "version": cloned.version })).into_response())
}
