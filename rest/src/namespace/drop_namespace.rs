//! `POST /v1/namespace/{id}/drop`: a namespace, alone or with everything in it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::ErrorKind;
use serde::Deserialize;
use serde_json::json;

use super::{Place, choice};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DropNamespace {
    id: Option<Vec<String>>,
    /// What to do where it does not exist.
    mode: Option<String>,
    /// What to do where it is not empty.
    behavior: Option<String>,
}

pub(crate) async fn drop_namespace(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DropNamespace>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_namespace_id(body.id.as_deref())?;
    let skip = choice("mode", body.mode.as_deref(), &[("Fail", false), ("Skip", true)], false)?;
    let behaviors = [("Restrict", false), ("Cascade", true)];
    let cascade = choice("behavior", body.behavior.as_deref(), &behaviors, false)?;
    let Place { database, path } = Place::to_change(&target)?;
    match door.service.drop_namespace(target.ctx(), &database, &path, cascade).await {
        Ok(properties) => Ok(Json(json!({ "properties": properties })).into_response()),
        Err(error) if skip && error.kind() == ErrorKind::NotFound => {
            Ok(Json(json!({})).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
