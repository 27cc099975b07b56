//! `POST /v1/table/{id}/multipart_write/{create,complete,abort}`: an insert in parts.
//!
//! The parts themselves are inserts that name the upload; see `insert.rs`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::params::Params;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Multipart {
    id: Option<Vec<String>>,
    branch: Option<String>,
}

pub(crate) async fn create(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Multipart>,
) -> Result<Response, ApiError> {
    let params = target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = branch(&body, params);
    let upload_id =
        door.service.create_multipart(target.ctx(), &target.table()?, branch.as_deref()).await?;
    Ok(Json(json!({ "upload_id": upload_id })).into_response())
}

pub(crate) async fn complete(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Multipart>,
) -> Result<Response, ApiError> {
    let params = target.params(&["branch", "upload_id"])?;
    target.check_id(body.id.as_deref())?;
    let branch = branch(&body, params);
    let version = door
        .service
        .complete_multipart(target.ctx(), &target.table()?, branch.as_deref(), upload_id(params)?)
        .await?;
    Ok(versioned(json!({ "version": version }), version))
}

pub(crate) async fn abort(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Multipart>,
) -> Result<Response, ApiError> {
    let params = target.params(&["branch", "upload_id"])?;
    target.check_id(body.id.as_deref())?;
    let branch = branch(&body, params);
    let (table, upload) = (target.table()?, upload_id(params)?);
    door.service.abort_multipart(target.ctx(), &table, branch.as_deref(), upload).await?;
    Ok(Json(json!({})).into_response())
}

fn branch(body: &Multipart, params: &Params) -> Option<String> {
    let in_body = body.branch.clone().filter(|branch| !branch.is_empty());
    in_body.or_else(|| params.text("branch").map(str::to_owned))
}

fn upload_id(params: &Params) -> Result<&str> {
    params.text("upload_id").ok_or_else(|| Error::invalid("query parameter `upload_id` is missing"))
}
