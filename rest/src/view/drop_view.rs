//! `POST /v1/view/{id}/drop`: a view goes, the tables that it reads stay.
//!
//! A name without a view is no error: the SDKs say so of their call.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::ErrorKind;
use serde_json::json;

use super::OneView;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn drop_view(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneView>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    match door.service.drop_view(target.ctx(), &target.table()?).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    Ok(Json(json!({})).into_response())
}
