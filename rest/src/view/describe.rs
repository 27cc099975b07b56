//! `POST /v1/view/{id}/describe`: the query of a view, and the columns that it had when it was made.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{OneView, described};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn describe_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let view = door.service.describe_view(target.ctx(), &target.table()?).await?;
    Ok(Json(described(&view)).into_response())
}
