//! `POST /v1/table/{id}/gc`: delete old versions and what only they use, or say what that would be.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_service::Keep;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gc {
    id: Option<Vec<String>>,
    branch: Option<String>,
    keep_age_ms: Option<u64>,
    keep_versions: Option<u64>,
    dry_run: bool,
}

pub(crate) async fn gc(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Gc>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let keep = Keep { age_ms: body.keep_age_ms, versions: body.keep_versions };
    let table = target.table()?;
    let cleaned = door.service.gc(target.ctx(), &table, branch, keep, body.dry_run).await?;
    let kept: Vec<_> = cleaned
        .kept
        .iter()
        .map(|(version, by)| json!({ "version": version, "kept_by": by }))
        .collect();
    let answer = json!({
        "dry_run": body.dry_run,
        "versions": cleaned.versions,
        "kept": kept,
        "files": cleaned.files,
        "bytes": cleaned.bytes,
        "orphans": cleaned.orphans,
    });
    Ok(Json(answer).into_response())
}
