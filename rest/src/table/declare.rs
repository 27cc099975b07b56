//! `POST /v1/table/{id}/declare`: keep a name for a table whose first version another tool writes.
//!
//! The answer says where, as `describe` does. Credentials for it are the tool's own.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::describe::location;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeclareTable {
    id: Option<Vec<String>>,
    location: Option<String>,
    vend_credentials: Option<bool>,
    properties: Option<BTreeMap<String, String>>,
}

pub(crate) async fn declare_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<DeclareTable>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    if body.vend_credentials == Some(true) {
        let message = "vending of storage credentials (`vend_credentials`) is not built";
        return Err(Error::new(ErrorKind::NotImplemented, message).into());
    }
    if body.location.is_some_and(|location| !location.is_empty()) {
        let message = "`location`: the lake chooses where its tables lie";
        return Err(Error::invalid(message).into());
    }
    check_properties(body.properties.as_ref())?;
    let relative = door.service.declare_table(target.ctx(), &target.table()?).await?;
    let answer = json!({
        "location": location(&door, &target, &relative),
        "managed_versioning": Value::Null,
    });
    Ok(Json(answer).into_response())
}

/// Refuses what would not be kept.
pub(crate) fn check_properties(properties: Option<&BTreeMap<String, String>>) -> Result<(), Error> {
    match properties.is_none_or(BTreeMap::is_empty) {
        true => Ok(()),
        false => Err(Error::invalid("`properties`: tables have none")),
    }
}
