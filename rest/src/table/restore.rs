//! `POST /v1/table/{id}/restore`: an old version as the newest.

use axum::extract::State;
use axum::response::Response;
use lakebed_core::Error;
use serde::Deserialize;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Restore {
    id: Option<Vec<String>>,
    version: Option<u64>,
    branch: Option<String>,
}

pub(crate) async fn restore(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Restore>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    // A handle that was not checked out to a version sends null here.
    let Some(version) = body.version else {
        return Err(Error::invalid("field `version` is missing: which version to restore").into());
    };
    let new_version = door.service.restore(target.ctx(), &target.table()?, branch, version).await?;
    Ok(versioned(json!({ "version": new_version }), new_version))
}
