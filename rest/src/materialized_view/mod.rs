//! Verbs on materialized views, one file each.

pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod drop_view;
pub(crate) mod list;
pub(crate) mod refresh;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use lakebed_core::ErrorKind;
use serde::Deserialize;
use serde_json::json;

use crate::error::ApiError;

/// The body that names nothing but the view.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OneView {
    id: Option<Vec<String>>,
}

/// The answer of a verb that began a job; the SDKs take 202 alone for one.
fn begun(job_id: &str) -> Response {
    (StatusCode::ACCEPTED, Json(json!({ "job_id": job_id }))).into_response()
}

/// What is wrong with a request, in the status that the SDKs neither try again nor read as a view that is
/// not there.
fn refused(error: lakebed_core::Error) -> ApiError {
    let kind = error.kind();
    let answer = ApiError::from(error);
    match kind {
        ErrorKind::AlreadyExists | ErrorKind::NotFound => {
            answer.with_status(StatusCode::BAD_REQUEST)
        }
        _ => answer,
    }
}
