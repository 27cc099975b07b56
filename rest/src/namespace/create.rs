//! `POST /v1/namespace/{id}/create`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, ErrorKind, Subject};
use lakebed_service::{CreateMode, Properties};
use serde::Deserialize;
use serde_json::json;

use super::{Place, choice};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

const MODES: [(&str, CreateMode); 3] = [
    ("Create", CreateMode::Create),
    ("ExistOk", CreateMode::ExistOk),
    ("Overwrite", CreateMode::Overwrite),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CreateNamespace {
    id: Option<Vec<String>>,
    mode: Option<String>,
    properties: Option<Properties>,
}

pub(crate) async fn create_namespace(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateNamespace>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_namespace_id(body.id.as_deref())?;
    let mode = choice("mode", body.mode.as_deref(), &MODES, CreateMode::Create)?;
    if !target.is_catalog() && target.is_root()? {
        if mode == CreateMode::ExistOk {
            return Ok(Json(json!({ "properties": {} })).into_response());
        }
        let error = Error::new(ErrorKind::AlreadyExists, "the root namespace already exists");
        return Err(error.about(Subject::Namespace).into());
    }
    let Place { database, path } = Place::to_change(&target)?;
    let properties = door
        .service
        .create_namespace(target.ctx(), &database, &path, mode, body.properties.unwrap_or_default())
        .await?;
    Ok(Json(json!({ "properties": properties })).into_response())
}
