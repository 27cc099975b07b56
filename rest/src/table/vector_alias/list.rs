//! `POST /v1/table/{id}/vector_alias/list`: the aliases of a version, and what they point to.

use axum::extract::State;
use axum::response::Response;
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::versioned;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListAliases {
    id: Option<Vec<String>>,
    branch: Option<String>,
    version: Option<u64>,
    tag: Option<String>,
}

pub(crate) async fn list_vector_aliases(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListAliases>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let at = ReadCommand {
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        version: body.version,
        tag: body.tag.filter(|tag| !tag.is_empty()),
        ..ReadCommand::default()
    };
    let (entries, version) =
        door.service.list_vector_aliases(target.ctx(), &target.table()?, &at).await?;
    let aliases: Map<String, Value> = entries
        .into_iter()
        .map(|entry| (entry.alias, json!({ "column": entry.column, "model": entry.model })))
        .collect();
    Ok(versioned(json!({ "aliases": aliases, "version": version }), version))
}
