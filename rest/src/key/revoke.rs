//! `DELETE /v1/keys/{key}`: refused from now on.

use axum::extract::State;
use http::StatusCode;

use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn revoke_key(
    State(door): State<Door>,
    target: Target,
) -> Result<StatusCode, ApiError> {
    target.params(&[])?;
    door.service.revoke_key(target.ctx(), target.path("key")?).await?;
    Ok(StatusCode::NO_CONTENT)
}
