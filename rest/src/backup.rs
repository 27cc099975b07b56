//! `POST /v1/backup`: begins a backup of the lake, or of some tables.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lakebed_core::{DatabaseName, Error, Result, TableId};
use lakebed_service::BackupCommand;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BackupBody {
    to: Option<String>,
    tables: Option<Vec<String>>,
    prune: bool,
    audit: bool,
    dry_run: bool,
}

pub(crate) async fn backup(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<BackupBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let to = body.to.filter(|to| !to.is_empty());
    let to = to.ok_or_else(|| Error::invalid("field `to` is missing"))?;
    if !to.contains("://") && !std::path::Path::new(&to).is_absolute() {
        // A path that leads somewhere from where the server happens to run is a mistake.
        return Err(Error::invalid("field `to` is an absolute path or `s3://…`").into());
    }
    let database = &target.ctx().database;
    let tables: Result<Vec<TableId>> =
        body.tables.unwrap_or_default().iter().map(|table| table_of(database, table)).collect();
    let command = BackupCommand {
        to,
        tables: tables?,
        prune: body.prune,
        with_audit: body.audit,
        is_dry_run: body.dry_run,
    };
    let job_id = door.service.backup(target.ctx(), command).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job_id": job_id }))).into_response())
}

/// `database/ns$name`, or `ns$name` in the request's database.
fn table_of(database: &DatabaseName, text: &str) -> Result<TableId> {
    match text.rsplit_once('/') {
        Some((database, table)) => TableId::parse(&DatabaseName::parse(database)?, table),
        None => TableId::parse(database, text),
    }
}
