//! `POST /v1/secret/{id}/create`: a secret is made; a name that is taken is an error.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{described, value};
use crate::Door;
use crate::body::BodyBytes;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn create_secret(
    State(door): State<Door>,
    target: Target,
    body: BodyBytes,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let value = value(&target, body)?;
    let secret = door.service.create_secret(target.ctx(), &target.table()?, &value).await?;
    Ok(Json(described(&secret)).into_response())
}
