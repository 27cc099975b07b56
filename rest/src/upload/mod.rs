//! Verbs on uploads, one file each. An upload that is complete is referred to as `upload:ID` by a
//! blob cell of any write.

pub(crate) mod abort;
pub(crate) mod complete;
pub(crate) mod create;
pub(crate) mod offset;
pub(crate) mod parts;
pub(crate) mod put;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use serde_json::json;

/// Where the next byte belongs.
const OFFSET_HEADER: HeaderName = HeaderName::from_static("upload-offset");

/// How far the upload `id` has come.
fn progress(id: &str, offset: u64) -> Response {
    let mut response = Json(json!({ "id": id, "offset": offset })).into_response();
    response.headers_mut().insert(OFFSET_HEADER, HeaderValue::from(offset));
    response
}
