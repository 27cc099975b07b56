//! `POST /v1/table/{id}/count_rows`: a bare number.

use axum::extract::State;
use axum::response::Response;
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;

use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CountRows {
    id: Option<Vec<String>>,
    predicate: Option<String>,
    row_set: Option<String>,
    version: Option<u64>,
    branch: Option<String>,
}

pub(crate) async fn count_rows(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CountRows>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let command = ReadCommand {
        table: target.table()?.text(),
        version: body.version,
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        filter: body.predicate.filter(|predicate| !predicate.is_empty()),
        row_set: body.row_set.filter(|row_set| !row_set.is_empty()),
        ..ReadCommand::default()
    };
    let (rows, version) = door.service.count_rows(target.ctx(), command).await.map_err(refused)?;
    Ok(versioned(rows, version))
}
