//! `POST /v1/namespace/{id}/describe`: the properties of a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_service::Properties;
use serde_json::json;

use super::{OneNamespace, Place};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn describe_namespace(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneNamespace>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_namespace_id(body.id.as_deref())?;
    let place = Place::find(&target)?;
    let properties = match &place {
        // The root of a database is there before anything was made in it.
        Some(place) if place.path.is_root() && !target.is_catalog() => Properties::new(),
        Some(place) => {
            door.service.describe_namespace(target.ctx(), &place.database, &place.path).await?
        }
        None => Properties::new(),
    };
    Ok(Json(json!({ "properties": properties })).into_response())
}
