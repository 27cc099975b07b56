//! `GET|HEAD /v1/uploads/{id}`: where to go on.

use axum::extract::State;
use axum::response::Response;

use super::progress;
use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn upload_offset(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let id = target.path("id")?;
    let offset = door.service.upload_offset(target.ctx(), id).await?;
    Ok(progress(id, offset))
}
