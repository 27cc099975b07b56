//! `POST /v1/table/{id}/exists`: an empty answer, or 404.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::ErrorKind;
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TableExists {
    id: Option<Vec<String>>,
    version: Option<u64>,
    branch: Option<String>,
}

pub(crate) async fn table_exists(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<TableExists>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let at = ReadCommand {
        version: body.version,
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        ..ReadCommand::default()
    };
    let table = target.table()?;
    match door.service.describe_table(target.ctx(), &table, &at).await {
        // A declared name is there, too.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            door.service.declared_location(target.ctx(), &table).await?.ok_or(error)?;
        }
        described => drop(described?),
    }
    Ok(StatusCode::OK.into_response())
}
