//! `POST /v1/uploads/{id}/complete`: all bytes are there and are the right ones.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Error;
use lakebed_service::{Claimed, StoredPart};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CompleteUpload {
    size: Option<u64>,
    sha256: Option<String>,
    crc64nvme: Option<String>,
    /// Of a direct upload.
    parts: Option<Vec<Part>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    number: u64,
    etag: String,
}

pub(crate) async fn complete_upload(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CompleteUpload>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let missing = |name: &str| Error::invalid(format!("field `{name}` is missing"));
    let size = body.size.ok_or_else(|| missing("size"))?;
    let claimed = Claimed::of(body.sha256.as_deref(), body.crc64nvme.as_deref())?;
    let id = target.path("id")?;
    let parts: Option<Vec<_>> = body.parts.map(|parts| {
        let stored = |part: Part| StoredPart { number: part.number, etag: part.etag };
        parts.into_iter().map(stored).collect()
    });
    let service = &door.service;
    let sha256 =
        service.complete_upload(target.ctx(), id, size, &claimed, parts.as_deref()).await?;
    let uri = format!("upload:{id}");
    Ok(Json(json!({ "id": id, "uri": uri, "size": size, "sha256": sha256 })).into_response())
}
