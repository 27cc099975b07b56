//! `GET /v1/table/{id}/show?version=|tag=|as_of=`: one table for people, Lakebed's own route.
//!
//! `describe` speaks two dialects of schemas for machines; this one names Arrow's types as Arrow
//! does.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat};
use lakebed_core::{Error, Result};
use lakebed_proto::command::ReadCommand;
use lakebed_service::TableDetails;
use serde_json::{Value, json};

use super::versioned;
use crate::Door;
use crate::error::ApiError;
use crate::params::shown;
use crate::target::Target;

pub(crate) async fn show_table(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let table = target.table()?;
    let at = read_at(&target)?;
    let details = door.service.describe_table(target.ctx(), &table, &at).await?;
    let tags: Vec<Value> = door
        .service
        .list_tags(target.ctx(), &table)
        .await?
        .into_iter()
        .map(|tag| json!({ "name": tag.name, "version": tag.version, "branch": tag.branch }))
        .collect();
    Ok(versioned(answer(&details, tags), details.version))
}

/// The version, tag or time that the query string asks for.
fn read_at(target: &Target) -> Result<ReadCommand> {
    let params = target.params(&["version", "tag", "as_of"])?;
    let as_of = params.text("as_of").map(|text| {
        DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|error| {
            Error::invalid(format!(
                "`as_of` is `{}`, not a time of RFC 3339 with a zone: {error}",
                shown(text)
            ))
        })
    });
    Ok(ReadCommand {
        version: params.number("version")?,
        tag: params.text("tag").map(str::to_owned),
        as_of: as_of.transpose()?,
        ..ReadCommand::default()
    })
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
    // All digits: given back as `as_of`, the time has to name this version.
    let committed = details.committed_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    json!({
        "database": details.id.database.as_str(),
        "table": details.id.text(),
        "location": details.location,
        "version": details.version,
        "committed_at": committed,
        "rows": details.rows,
        "profile": details.profile.to_string(),
        "overlays": {
            "fragments": details.overlaid.len(),
            "files": details.overlaid.iter().map(|it| it.files).sum::<usize>(),
            "rows": details.overlaid.iter().map(|it| it.covered).sum::<u64>(),
        },
        "columns": columns,
        "tags": tags,
    })
}
