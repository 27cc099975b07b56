//! `POST /v1/table/{id}/insert`: rows out of an Arrow stream, appended or in place of the others; or one
//! part of a write in parts, which commits nothing.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use lakebed_core::{Error, Result};
use lakebed_proto::command::{WriteCommand, WriteMode};
use lakebed_service::Part;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::arrow_body::arrow_body;
use crate::error::ApiError;
use crate::params::{Params, shown};
use crate::target::Target;

pub(crate) async fn insert_rows(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let params = target.params(&["mode", "branch", "upload_id", "upload_part_id"])?;
    if let Some(part) = part(params)? {
        let (schema, batches) = arrow_body(&door.service, &headers, body).await?;
        let table = target.table()?;
        let rows = door.service.write_part(target.ctx(), &table, &part, schema, batches).await?;
        return Ok(Json(json!({ "num_rows": rows })).into_response());
    }
    let command = WriteCommand {
        table: target.table()?.text(),
        mode: mode(params)?,
        on: Vec::new(),
        branch: params.text("branch").map(str::to_owned),
        write_id: None,
        commit: Default::default(),
    };
    let (schema, batches) = arrow_body(&door.service, &headers, body).await?;
    let receipt = door.service.write(target.ctx(), command, schema, batches).await?;
    let answer = json!({ "version": receipt.version, "num_inserted_rows": receipt.rows });
    Ok(versioned(answer, receipt.version))
}

/// The part of a write in parts that the request brings, if it is one. Its branch is that of the upload.
fn part(params: &Params) -> Result<Option<Part>> {
    let overwrite = mode(params)? == WriteMode::Overwrite;
    match (params.text("upload_id"), params.text("upload_part_id")) {
        (None, None) => Ok(None),
        (Some(upload), Some(part)) => Ok(Some(Part {
            upload_id: upload.to_owned(),
            branch: params.text("branch").map(str::to_owned),
            part_id: part.to_owned(),
            overwrite,
        })),
        _ => Err(Error::invalid("`upload_id` and `upload_part_id` belong together")),
    }
}

/// Whether rows are added or replace those that are there.
fn mode(params: &Params) -> Result<WriteMode> {
    match params.text("mode").unwrap_or("append") {
        text if text.eq_ignore_ascii_case("append") => Ok(WriteMode::Append),
        text if text.eq_ignore_ascii_case("overwrite") => Ok(WriteMode::Overwrite),
        text => {
            Err(Error::invalid(format!("`mode` is `{}`, not `append` or `overwrite`", shown(text))))
        }
    }
}
