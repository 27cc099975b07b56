//! `POST /v1/table/{id}/version/list` and `version/describe`.
//!
//! The SDKs send nothing and expect every version, oldest first. Clients of the specification page,
//! newest first if they say `descending`; here they always get the newest first, so that a page is
//! read from the table and not cut out of the whole listing.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat};
use lakebed_core::{Error, Result};
use lakebed_proto::command::ReadCommand;
use lakebed_service::VersionSummary;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::describe::location;
use crate::table::versioned;
use crate::target::Target;

const PAGE_MAX: usize = 1_000;
/// Versions in one answer to a client that does not page.
const VERSIONS_MAX: usize = 100_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListVersions {
    id: Option<Vec<String>>,
    branch: Option<String>,
    limit: Option<u64>,
    page_token: Option<String>,
    descending: Option<bool>,
}

pub(crate) async fn list_versions(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListVersions>,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token", "descending", "branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let limit = body.limit.or(params.number("limit")?);
    let token = body.page_token.as_deref().filter(|token| !token.is_empty());
    let before = page_token(token.or(params.text("page_token")))?;
    if limit == Some(0) {
        return Err(Error::invalid("`limit` is 0; it has to be at least 1").into());
    }
    let is_paged = limit.is_some() || before.is_some();
    let newest_first = is_paged || body.descending.unwrap_or(false) || params.flag("descending")?;
    let wanted = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(VERSIONS_MAX);
    let (mut versions, has_more) =
        collect(&door, &target, branch, wanted.min(VERSIONS_MAX), before).await?;
    if has_more && !newest_first {
        // The SDKs take an answer as the whole; a part would be a wrong answer that looks right.
        return Err(Error::invalid(format!(
            "the table has more than {VERSIONS_MAX} versions; ask for pages with `limit`"
        ))
        .into());
    }
    let token = versions.last().map(|last| last.version.to_string()).filter(|_| has_more);
    if !newest_first {
        versions.reverse();
    }
    let entries = versions.iter().map(|version| entry(&door, &target, version));
    let mut answer = json!({ "versions": entries.collect::<Vec<Value>>() });
    if let Some(token) = token {
        answer["page_token"] = Value::from(token);
    }
    Ok(Json(answer).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DescribeVersion {
    id: Option<Vec<String>>,
    branch: Option<String>,
    version: Option<u64>,
}

pub(crate) async fn describe_version(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DescribeVersion>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let at = ReadCommand {
        version: body.version,
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        ..ReadCommand::default()
    };
    let version = door.service.describe_version(target.ctx(), &target.table()?, &at).await?;
    let answer = json!({ "version": entry(&door, &target, &version) });
    Ok(versioned(answer, version.version))
}

/// Up to `wanted` versions below `before`, newest first, and whether there are more.
async fn collect(
    door: &Door,
    target: &Target,
    branch: Option<&str>,
    wanted: usize,
    mut before: Option<u64>,
) -> Result<(Vec<VersionSummary>, bool)> {
    let table = target.table()?;
    let mut versions: Vec<VersionSummary> = Vec::new();
    // One more than wanted tells whether there are more.
    while versions.len() <= wanted {
        let page_limit = (wanted + 1 - versions.len()).min(PAGE_MAX);
        let page =
            door.service.list_versions(target.ctx(), &table, branch, page_limit, before).await?;
        let is_last = page.len() < page_limit;
        before = page.last().map(|last| last.version);
        versions.extend(page);
        if is_last {
            break;
        }
    }
    let has_more = versions.len() > wanted;
    versions.truncate(wanted);
    Ok((versions, has_more))
}

fn page_token(token: Option<&str>) -> Result<Option<u64>> {
    token
        .map(|token| {
            token.parse().map_err(|_| Error::invalid("`page_token` is not one of this listing"))
        })
        .transpose()
}

fn entry(door: &Door, target: &Target, version: &VersionSummary) -> Value {
    entry_at(&location(door, target, &version.manifest), version)
}

fn entry_at(manifest: &str, version: &VersionSummary) -> Value {
    let time = DateTime::from_timestamp_millis(version.committed_at_ms).unwrap_or_default();
    json!({
        "version": version.version,
        "timestamp": time.to_rfc3339_opts(SecondsFormat::Millis, true),
        "timestamp_millis": version.committed_at_ms,
        "manifest_path": manifest,
        "manifest_size": version.manifest_bytes,
        "e_tag": version.e_tag,
        "metadata": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_both_forms_of_its_time() {
        let version = VersionSummary {
            version: 3,
            committed_at_ms: 1_767_225_600_001,
            manifest: "default/t.lance/_versions/3.manifest".to_owned(),
            manifest_bytes: Some(4),
            e_tag: None,
        };
        let entry = entry_at("there", &version);
        assert_eq!(entry["timestamp"], "2026-01-01T00:00:00.001Z");
        assert_eq!(entry["timestamp_millis"], 1_767_225_600_001_i64);
        assert!(page_token(Some("x")).is_err());
    }
}
