//! `GET /v1/models/{model}`: a registered model with all its versions and tags, or with `NAME@VERSION` or
//! `NAME@TAG` that version.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn describe_model(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let model = target.path("model")?;
    let described = match model.contains('@') {
        true => door.service.describe_model_version(target.ctx(), model).await?.json(),
        false => door.service.describe_model(target.ctx(), model).await?,
    };
    Ok(Json(described).into_response())
}
