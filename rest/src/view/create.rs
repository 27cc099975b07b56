//! `POST /v1/view/{id}/create`: a query is kept under a name.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::ErrorKind;
use serde::Deserialize;

use super::described;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateView {
    #[serde(default)]
    id: Option<Vec<String>>,
    query: String,
}

pub(crate) async fn create_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let made = door.service.create_view(target.ctx(), &target.table()?, &body.query).await;
    let view = made.map_err(|error| {
        let kind = error.kind();
        let answer = ApiError::from(error);
        match kind {
            // The SDKs try again what is answered by 409, and read 404 as a view that is not there.
            ErrorKind::AlreadyExists | ErrorKind::NotFound => {
                answer.with_status(StatusCode::BAD_REQUEST)
            }
            _ => answer,
        }
    })?;
    Ok(Json(described(&view)).into_response())
}
