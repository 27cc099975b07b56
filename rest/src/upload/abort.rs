//! `DELETE /v1/uploads/{id}`: throws an upload away.

use axum::extract::State;
use http::StatusCode;

use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn abort_upload(
    State(door): State<Door>,
    target: Target,
) -> Result<StatusCode, ApiError> {
    target.params(&[])?;
    door.service.abort_upload(target.ctx(), target.path("id")?).await?;
    Ok(StatusCode::NO_CONTENT)
}
