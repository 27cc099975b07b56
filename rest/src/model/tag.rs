//! `POST /v1/models/{model}/tag` and `…/untag`: what names a version beside its number.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Error;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TagBody {
    tag: Option<String>,
    version: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UntagBody {
    tag: Option<String>,
}

/// A tag names a version, whatever it named before.
pub(crate) async fn tag_model(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<TagBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let tag = body.tag.ok_or_else(|| Error::invalid("field `tag` is missing"))?;
    let version = body.version.ok_or_else(|| Error::invalid("field `version` is missing"))?;
    door.service.tag_model(target.ctx(), target.path("model")?, &tag, version).await?;
    Ok(Json(json!({})).into_response())
}

/// A tag goes, its version stays.
pub(crate) async fn untag_model(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<UntagBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let tag = body.tag.ok_or_else(|| Error::invalid("field `tag` is missing"))?;
    door.service.untag_model(target.ctx(), target.path("model")?, &tag).await?;
    Ok(Json(json!({})).into_response())
}
