//! `POST /v1/table/{id}/index/list`.

use axum::extract::State;
use axum::response::Response;
use chrono::SecondsFormat;
use lakebed_proto::command::ReadCommand;
use lakebed_service::IndexSummary;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::versioned;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListIndices {
    id: Option<Vec<String>>,
    version: Option<u64>,
    branch: Option<String>,
    limit: Option<u64>,
    page_token: Option<String>,
}

pub(crate) async fn list_indices(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListIndices>,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token", "branch", "version"])?;
    target.check_id(body.id.as_deref())?;
    let limit = body.limit.or(params.number("limit")?);
    let token = body.page_token.as_deref().or(params.text("page_token"));
    let page = crate::page::PageRequest::new(limit, token)?;
    let at = ReadCommand {
        version: body.version.or(params.number("version")?),
        branch: body.branch.or(params.text("branch").map(str::to_owned)),
        ..ReadCommand::default()
    };
    let at = ReadCommand { branch: at.branch.filter(|branch| !branch.is_empty()), ..at };
    let (indexes, version) = door.service.list_indexes(target.ctx(), &target.table()?, &at).await?;
    let (indexes, token) = page.cut(indexes, |index| &index.name);
    let entries: Vec<Value> = indexes.iter().map(entry).collect();
    let mut answer = json!({ "indexes": entries });
    if let Some(token) = token {
        answer["page_token"] = Value::from(token);
    }
    Ok(versioned(answer, version))
}

fn entry(index: &IndexSummary) -> Value {
    let created = index.created_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let details: Value = serde_json::from_str(&index.details).unwrap_or(Value::Null);
    json!({
        "index_name": index.name,
        "columns": index.columns,
        "index_type": protocol_type(&index.index_type),
        "status": "done",
        "index_uuid": index.segments.first().map(|uuid| uuid.to_string()),
        "created_at": created,
        "num_indexed_rows": index.indexed_rows,
        "num_unindexed_rows": index.unindexed_rows,
        "size_bytes": index.size_bytes,
        "num_segments": index.segments.len(),
        "index_version": index.index_version,
        "index_details": details.to_string(),
        "type_url": index.type_url,
    })
}

/// The type as the SDKs spell it.
pub(super) fn protocol_type(index_type: &str) -> String {
    match index_type {
        "BTree" => "BTREE",
        "Bitmap" => "BITMAP",
        "LabelList" => "LABEL_LIST",
        "Inverted" => "FTS",
        "NGram" => "NGRAM",
        "ZoneMap" => "ZONEMAP",
        "BloomFilter" => "BLOOM_FILTER",
        "RTree" => "RTREE",
        "Fm" => "FM",
        other => other,
    }
    .to_owned()
}
