//! `POST /v1/table/{id}/register`: enter a dataset that lies in the lake under a name.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::params::shown;
use crate::table::declare::check_properties;
use crate::table::describe::location;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RegisterTable {
    id: Option<Vec<String>>,
    location: String,
    mode: Option<String>,
    properties: Option<BTreeMap<String, String>>,
}

pub(crate) async fn register_table(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<RegisterTable>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    check_properties(body.properties.as_ref())?;
    let replace = replaces(body.mode.as_deref())?;
    let (table, place) = (target.table()?, &body.location);
    let relative = door.service.register_table(target.ctx(), &table, place, replace).await?;
    Ok(Json(json!({ "location": location(&door, &target, &relative) })).into_response())
}

fn replaces(mode: Option<&str>) -> Result<bool> {
    match mode.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "create" => Ok(false),
        "overwrite" => Ok(true),
        other => {
            Err(Error::invalid(format!("`mode` is `{}`; it is Create or Overwrite", shown(other))))
        }
    }
}
