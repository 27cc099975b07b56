//! `POST /v1/table/{id}/purge`: take the bytes of deleted rows away, or say what that would be.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::blob_gc::shown;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Purge {
    id: Option<Vec<String>>,
    branch: Option<String>,
    dry_run: bool,
}

pub(crate) async fn purge(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Purge>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let (service, ctx, table) = (&door.service, target.ctx(), target.table()?);
    if body.dry_run {
        let plan = service.plan_purge(ctx, &table, branch).await?;
        let rows: u64 = plan.fragments.iter().map(|fragment| fragment.rows).sum();
        let deleted: u64 = plan.fragments.iter().map(|fragment| fragment.deleted_rows).sum();
        let answer = json!({
            "dry_run": true,
            "version": plan.version,
            "fragments": plan.fragments.len(),
            "rows": rows,
            "deleted_rows": deleted,
            "indexes": plan.indexes,
            "versions": plan.versions,
            "held_by": plan.held_by,
        });
        return Ok(Json(answer).into_response());
    }
    let purged = service.purge(ctx, &table, branch).await?;
    let kept = purged.blobs_kept.iter();
    let kept: Vec<_> =
        kept.map(|blob| json!({ "sha256": blob.sha256, "kept_by": blob.by })).collect();
    let answer = json!({
        "dry_run": false,
        "version": purged.version,
        "fragments": purged.fragments,
        "indexes": purged.indexes,
        "versions": purged.cleaned.versions,
        "files": purged.cleaned.files,
        "bytes": purged.cleaned.bytes,
        "orphans": purged.cleaned.orphans,
        "orphans_left": purged.cleaned.young,
        "blobs": shown(purged.blobs.deleted),
        "blobs_kept": kept,
    });
    Ok(versioned(answer, purged.version))
}
