//! `POST /v1/function/{id}/describe`: one version of a function.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::OneVersion;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn describe_function(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneVersion>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let (table, number) = (target.table()?, body.number()?);
    let version = door.service.describe_function(target.ctx(), &table, number).await?;
    Ok(Json(version.json()?).into_response())
}
