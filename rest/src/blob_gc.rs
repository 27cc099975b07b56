//! `POST /v1/blobs/gc`: delete large blobs that nothing refers to, or say what that would be.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_service::{BlobCount, SweptBlobs};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GcBlobs {
    dry_run: bool,
}

pub(crate) async fn gc_blobs(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<GcBlobs>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let swept = door.service.gc_blobs(target.ctx(), body.dry_run).await?;
    let SweptBlobs { deleted, half_written, kept, spared } = swept;
    let kept: serde_json::Map<String, Value> =
        kept.into_iter().map(|(why, count)| (why.to_owned(), shown(count))).collect();
    let answer = json!({
        "dry_run": body.dry_run,
        "deleted": shown(deleted),
        "half_written": shown(half_written),
        "kept": kept,
        "spared": spared,
    });
    Ok(Json(answer).into_response())
}

pub(crate) fn shown(count: BlobCount) -> Value {
    json!({ "blobs": count.blobs, "bytes": count.bytes })
}
