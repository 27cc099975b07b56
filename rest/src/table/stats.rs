//! `POST /v1/table/{id}/stats`: sizes, from the manifest alone.

use axum::extract::State;
use axum::response::Response;
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TableStats {
    id: Option<Vec<String>>,
    branch: Option<String>,
    version: Option<u64>,
}

pub(crate) async fn table_stats(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<TableStats>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let at = ReadCommand {
        version: body.version,
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        ..ReadCommand::default()
    };
    let (stats, version) = door.service.table_stats(target.ctx(), &target.table()?, &at).await?;
    let rows = &stats.fragment_rows;
    let answer = json!({
        "total_bytes": stats.bytes,
        "num_rows": stats.rows,
        "num_deleted_rows": stats.deleted_rows,
        "num_indices": stats.indices,
        "fragment_stats": {
            "num_fragments": rows.len(),
            "num_small_fragments": stats.small_fragments(),
            "lengths": {
                "min": rows.first().copied().unwrap_or(0),
                "max": rows.last().copied().unwrap_or(0),
                "mean": rows.iter().sum::<u64>().checked_div(rows.len() as u64).unwrap_or(0),
                "p25": stats.percentile(25),
                "p50": stats.percentile(50),
                "p75": stats.percentile(75),
                "p99": stats.percentile(99),
            },
        },
    });
    Ok(versioned(answer, version))
}
