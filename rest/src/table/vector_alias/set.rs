//! `POST /v1/table/{id}/vector_alias/set`: searches that name the alias go to another column from now on.

use axum::extract::State;
use axum::response::Response;
use lakebed_core::VectorAlias;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::{refused, versioned};
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SetAlias {
    id: Option<Vec<String>>,
    branch: Option<String>,
    alias: String,
    column: String,
    /// The column that the alias has to point to now.
    expected: Option<String>,
}

pub(crate) async fn set_vector_alias(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<SetAlias>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let alias = VectorAlias::parse(&body.alias)?;
    let expected = body.expected.as_deref().filter(|expected| !expected.is_empty());
    let (before, version) = door
        .service
        .set_vector_alias(target.ctx(), &target.table()?, branch, &alias, &body.column, expected)
        .await
        .map_err(refused)?;
    let answer = json!({
        "alias": alias.as_str(),
        "column": body.column,
        "before": before,
        "version": version,
    });
    Ok(versioned(answer, version))
}
