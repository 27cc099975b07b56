//! `GET /v1/models/{model}/file?path=…`: the bytes of a file of a model, from `offset` on and at most `length`
//! of them.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use lakebed_core::Error;

use crate::Door;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn model_file(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&["path", "offset", "length"])?;
    let path = params.text("path").ok_or_else(|| Error::invalid("`path` is missing"))?;
    let (offset, length) = (params.number("offset")?.unwrap_or(0), params.number("length")?);
    let model = target.path("model")?;
    let found = door.service.read_model(target.ctx(), model, path, offset, length).await?;
    // The length is promised, so an error inside the stream breaks the connection.
    let mut response = Response::new(Body::from_stream(found.bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(found.size));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // Nobody's browser shall take a model for a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", found.file.sha256)) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}
