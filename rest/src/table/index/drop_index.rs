//! `POST /v1/table/{id}/index/{name}/drop`.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::stats::check_name;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::versioned;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DropIndex {
    id: Option<Vec<String>>,
    index_name: Option<String>,
    branch: Option<String>,
}

pub(crate) async fn drop_index(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropIndex>,
) -> Result<Response, ApiError> {
    let params = target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let name = target.path("name")?;
    check_name(name, body.index_name.as_deref())?;
    let branch = body.branch.as_deref().filter(|branch| !branch.is_empty());
    let branch = branch.or(params.text("branch"));
    let version = door.service.drop_index(target.ctx(), &target.table()?, branch, name).await?;
    Ok(versioned(json!({ "version": version }), version))
}
