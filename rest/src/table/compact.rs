//! `POST /v1/table/{id}/compact`: join small fragments, or say which.

use axum::extract::State;
use axum::response::Response;
use lakebed_service::CompactionReason;
use serde::Deserialize;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Compact {
    id: Option<Vec<String>>,
    branch: Option<String>,
    dry_run: bool,
}

pub(crate) async fn compact(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<Compact>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let pass = door.service.compact(target.ctx(), &target.table()?, branch, body.dry_run).await?;
    let planned = pass.planned.iter().map(|rewrite| {
        json!({
            "fragments": rewrite.fragments,
            "reason": match rewrite.reason {
                CompactionReason::Small => "small",
                CompactionReason::Deleted => "deleted",
            },
            "rows": rewrite.rows,
            "bytes": rewrite.bytes,
        })
    });
    let answer = json!({
        "version": pass.version,
        "dry_run": body.dry_run,
        "planned": planned.collect::<Vec<_>>(),
        "done": pass.done,
        "lost": pass.lost,
        "fragments_folded": pass.folded,
        "fragments_removed": pass.removed,
        "fragments_added": pass.added,
    });
    Ok(versioned(answer, pass.version))
}
