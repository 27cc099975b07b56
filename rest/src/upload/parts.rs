//! `POST /v1/uploads/{id}/parts`: signs the addresses to which the parts of a direct upload go.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SignParts {
    /// The number of the first part; 1 when absent.
    first: Option<u64>,
    /// How many parts; 1 when absent.
    count: Option<u64>,
}

pub(crate) async fn sign_parts(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<SignParts>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let (first, count) = (body.first.unwrap_or(1), body.count.unwrap_or(1));
    let id = target.path("id")?;
    let parts = door.service.sign_upload_parts(target.ctx(), id, first, count).await?;
    Ok(Json(parts).into_response())
}
