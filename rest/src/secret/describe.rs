//! `POST /v1/secret/{id}/describe`: when a secret was made and altered.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{OneSecret, described};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn describe_secret(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneSecret>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let secret = door.service.describe_secret(target.ctx(), &target.table()?).await?;
    Ok(Json(described(&secret)).into_response())
}
