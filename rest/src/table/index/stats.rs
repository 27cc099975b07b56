//! `POST /v1/table/{id}/index/{name}/stats`.

use axum::extract::State;
use axum::response::Response;
use lakebed_core::{Error, Subject};
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;
use serde_json::json;

use super::list::protocol_type;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::params::shown;
use crate::table::versioned;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IndexStats {
    id: Option<Vec<String>>,
    index_name: Option<String>,
    version: Option<u64>,
    branch: Option<String>,
}

pub(crate) async fn index_stats(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<IndexStats>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let name = target.path("name")?;
    check_name(name, body.index_name.as_deref())?;
    let at = ReadCommand {
        version: body.version,
        branch: body.branch.filter(|branch| !branch.is_empty()),
        ..ReadCommand::default()
    };
    let (indexes, version) = door.service.list_indexes(target.ctx(), &target.table()?, &at).await?;
    let Some(index) = indexes.iter().find(|index| index.name == name) else {
        return Err(unknown(name).into());
    };
    let stats = json!({
        "num_indexed_rows": index.indexed_rows,
        "num_unindexed_rows": index.unindexed_rows,
        "index_type": protocol_type(&index.index_type),
        "distance_type": index.distance,
        "num_indices": index.segments.len(),
    });
    Ok(versioned(stats, version))
}

/// Refuses a body that repeats the index's name with another value.
pub(super) fn check_name(name: &str, in_body: Option<&str>) -> lakebed_core::Result<()> {
    match in_body {
        Some(other) if !other.is_empty() && other != name => Err(Error::invalid(format!(
            "the body's index_name `{}` is not the path's `{}`",
            shown(other),
            shown(name)
        ))),
        _ => Ok(()),
    }
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("index `{}` does not exist", shown(name))).about(Subject::Index)
}
