//! `POST /v1/uploads/{id}/complete`: all bytes are there and are the right ones.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Error;
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
}

pub(crate) async fn complete_upload(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CompleteUpload>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let missing = |name: &str| Error::invalid(format!("field `{name}` is missing"));
    let size = body.size.ok_or_else(|| missing("size"))?;
    let sha256 = body.sha256.ok_or_else(|| missing("sha256"))?.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::invalid("field `sha256` is not 64 hexadecimal digits").into());
    }
    let id = target.path("id")?;
    door.service.complete_upload(target.ctx(), id, size, &sha256).await?;
    let uri = format!("upload:{id}");
    Ok(Json(json!({ "id": id, "uri": uri, "size": size, "sha256": sha256 })).into_response())
}
