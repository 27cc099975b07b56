//! `POST /v1/table/{id}/profile`: which tools can open a table, Lakebed's own route.

use axum::extract::State;
use axum::response::Response;
use lakebed_core::Error;
use lakebed_service::Profile;
use serde::Deserialize;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SetProfile {
    id: Option<Vec<String>>,
    branch: Option<String>,
    profile: Option<String>,
}

pub(crate) async fn set_profile(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<SetProfile>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let wanted = body.profile.as_deref();
    let wanted = wanted.ok_or_else(|| Error::invalid("field `profile` is missing"))?;
    let profile = Profile::parse(wanted)?;
    let folded = door.service.set_profile(target.ctx(), &target.table()?, branch, profile).await?;
    let answer = json!({
        "version": folded.version,
        "profile": profile.to_string(),
        "fragments_folded": folded.fragments,
        "bytes": folded.bytes,
    });
    Ok(versioned(answer, folded.version))
}
