//! `POST /v1/table/{id}/create`: a table out of an Arrow stream.
//!
//! The SDKs read a 400 whose text says `already exists` as "the table exists"; the specification numbers
//! that 409 and code 5.

use std::sync::Arc;

use arrow_schema::Schema;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::TryStreamExt as _;
use http::{HeaderMap, StatusCode};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::command::{ReadCommand, WriteCommand, WriteMode};
use lakebed_service::TableDetails;
use serde_json::json;

use super::versioned;
use crate::Door;
use crate::arrow_body::arrow_body;
use crate::error::ApiError;
use crate::params::{Params, shown};
use crate::table::describe::location;
use crate::target::Target;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Create,
    ExistOk,
    Overwrite,
}

pub(crate) async fn create_table(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mode = mode(target.params(&["mode"])?)?;
    match create(&door, &target, mode, &headers, body).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && target.is_sdk() => {
            Err(ApiError::from(error).with_status(StatusCode::BAD_REQUEST))
        }
        Err(error) => Err(error.into()),
        Ok((relative, version)) => {
            let location = location(&door, &target, &relative);
            Ok(versioned(json!({ "location": location, "version": version }), version))
        }
    }
}

/// Where the table lies, relative to the lake's root, and its version.
async fn create(
    door: &Door,
    target: &Target,
    mode: Mode,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, u64)> {
    let id = target.table()?;
    let (schema, mut batches) = arrow_body(&door.service, headers, body).await?;
    if mode == Mode::ExistOk
        && let Some(found) = existing(door, target).await?
    {
        // Rows are sent and not wanted: the table stays as it is.
        while batches.try_next().await?.is_some() {}
        return kept(door, found, &schema);
    }
    let command = WriteCommand {
        table: id.text(),
        mode: match mode {
            Mode::Overwrite => WriteMode::Overwrite,
            Mode::Create | Mode::ExistOk => WriteMode::Create,
        },
        on: Vec::new(),
        branch: None,
        write_id: None,
        commit: Default::default(),
    };
    let sent = Arc::clone(&schema);
    let written = door.service.write(target.ctx(), command, schema, batches).await;
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && mode == Mode::ExistOk => {
            // Another request made it meanwhile, and that is as good.
            let found = existing(door, target).await?.ok_or(error)?;
            kept(door, found, &sent)
        }
        Err(error) => Err(error),
        Ok(receipt) => {
            // The table is made: what goes wrong from here on must not look as if it were not.
            let found = existing(door, target).await.ok().flatten();
            Ok((found.map(|found| found.location).unwrap_or_default(), receipt.version))
        }
    }
}

/// The table that is there, where it is the one that is wanted.
fn kept(door: &Door, found: TableDetails, sent: &Schema) -> Result<(String, u64)> {
    match found.has_columns_of(sent, door.service.limits())? {
        true => Ok((found.location, found.version)),
        false => Err(Error::invalid("Provided schema does not match existing table schema")),
    }
}

async fn existing(door: &Door, target: &Target) -> Result<Option<TableDetails>> {
    let found =
        door.service.describe_table(target.ctx(), &target.table()?, &ReadCommand::default()).await;
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn mode(params: &Params) -> Result<Mode> {
    let text = params.text("mode").unwrap_or("create");
    match text.replace('_', "").to_ascii_lowercase().as_str() {
        "create" => Ok(Mode::Create),
        "existok" => Ok(Mode::ExistOk),
        "overwrite" => Ok(Mode::Overwrite),
        _ => Err(Error::invalid(format!(
            "`mode` is `{}`, not `create`, `exist_ok` or `overwrite`",
            shown(text)
        ))),
    }
}
