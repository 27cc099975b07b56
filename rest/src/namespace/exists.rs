//! `POST /v1/namespace/{id}/exists`: an empty answer, or 404.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::{OneNamespace, Place};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn namespace_exists(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneNamespace>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_namespace_id(body.id.as_deref())?;
    if let Some(place) = Place::find(&target)?
        && (target.is_catalog() || !place.path.is_root())
    {
        door.service.describe_namespace(target.ctx(), &place.database, &place.path).await?;
    }
    Ok(StatusCode::OK.into_response())
}
