//! `GET /v1/table/{id}/show?version=|tag=|as_of=`: one table for people, Lakebed's own route.
//!
//! `describe` speaks two dialects of schemas for machines; this one names Arrow's types as Arrow
//! does.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat};
use lakebed_core::{Error, Result, Subject, TableId, nearest_names};
use lakebed_service::TableDetails;
use serde_json::{Value, json};

use super::versioned;
use crate::Door;
use crate::error::ApiError;
use crate::params::shown;
use crate::target::Target;

const PAGE_MAX: usize = 1_000;

pub(crate) async fn show_table(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let table = target.table()?;
    let version = resolve(&door, &target, &table).await?;
    let details = door.service.describe_table(target.ctx(), &table, version).await?;
    let tags: Vec<Value> = door
        .service
        .list_tags(target.ctx(), &table)
        .await?
        .into_iter()
        .map(|tag| json!({ "name": tag.name, "version": tag.version, "branch": tag.branch }))
        .collect();
    Ok(versioned(answer(&details, tags), details.version))
}

async fn resolve(door: &Door, target: &Target, table: &TableId) -> Result<Option<u64>> {
    let params = target.params(&["version", "tag", "as_of"])?;
    let (version, tag, as_of) =
        (params.number("version")?, params.text("tag"), params.text("as_of"));
    match (version, tag, as_of) {
        (version, None, None) => Ok(version),
        (None, Some(tag), None) => tagged(door, target, table, tag).await.map(Some),
        (None, None, Some(as_of)) => newest_at(door, target, table, as_of).await.map(Some),
        _ => Err(Error::invalid("only one of `version`, `tag` and `as_of` can be asked for")),
    }
}

async fn tagged(door: &Door, target: &Target, table: &TableId, tag: &str) -> Result<u64> {
    let tags = door.service.list_tags(target.ctx(), table).await?;
    tags.iter().find(|known| known.name == tag).map(|known| known.version).ok_or_else(|| {
        let near = nearest_names(tag, tags.iter().map(|known| known.name.as_str()));
        Error::not_found(format!("tag `{}` of `{table}` does not exist{near}", shown(tag)))
            .about(Subject::Tag)
    })
}

/// The newest version committed at or before `as_of`.
async fn newest_at(door: &Door, target: &Target, table: &TableId, as_of: &str) -> Result<u64> {
    let at = DateTime::parse_from_rfc3339(as_of).map_err(|error| {
        Error::invalid(format!(
            "`as_of` is `{}`, not a time of RFC 3339 with a zone: {error}",
            shown(as_of)
        ))
    })?;
    let mut before = None;
    loop {
        let page = door.service.list_versions(target.ctx(), table, PAGE_MAX, before).await?;
        if let Some(found) =
            page.iter().find(|version| version.committed_at_ms <= at.timestamp_millis())
        {
            return Ok(found.version);
        }
        match page.last() {
            Some(last) if page.len() == PAGE_MAX => before = Some(last.version),
            _ => {
                return Err(Error::not_found(format!(
                    "`{table}` has no version from {as_of} or before"
                ))
                .about(Subject::Version));
            }
        }
    }
}

fn answer(details: &TableDetails, tags: Vec<Value>) -> Value {
    let columns: Vec<Value> = details
        .schema
        .fields()
        .iter()
        .map(|field| {
            json!({
                "name": field.name(),
                "type": field.data_type().to_string(),
                "nullable": field.is_nullable(),
                "metadata": field.metadata(),
            })
        })
        .collect();
    let committed = DateTime::from_timestamp_millis(details.committed_at_ms).unwrap_or_default();
    json!({
        "database": details.id.database.as_str(),
        "table": details.id.text(),
        "location": details.location,
        "version": details.version,
        "committed_at": committed.to_rfc3339_opts(SecondsFormat::Millis, true),
        "rows": details.rows,
        "profile": details.profile,
        "columns": columns,
        "tags": tags,
    })
}
