//! `POST /v1/table/{id}/alter_columns`: other names, other types, null allowed or not.

use axum::extract::State;
use axum::response::Response;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::schema_json::type_from_json;
use lakebed_service::ColumnAlteration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AlterColumns {
    id: Option<Vec<String>>,
    branch: Option<String>,
    alterations: Vec<Alteration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Alteration {
    path: String,
    rename: Option<String>,
    /// A name, or an object as the SDKs send it.
    data_type: Option<Value>,
    nullable: Option<bool>,
    virtual_column: Option<Value>,
}

pub(crate) async fn alter_columns(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<AlterColumns>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    let alterations: Vec<ColumnAlteration> =
        body.alterations.into_iter().map(alteration).collect::<Result<_>>()?;
    if alterations.is_empty() {
        return Err(Error::invalid("field `alterations` is missing or empty").into());
    }
    let version = door
        .service
        .alter_columns(target.ctx(), &target.table()?, branch, &alterations)
        .await
        .map_err(refused)?;
    Ok(versioned(json!({ "version": version }), version))
}

fn alteration(sent: Alteration) -> Result<ColumnAlteration> {
    let Alteration { path, rename, data_type, nullable, virtual_column } = sent;
    if virtual_column.is_some() {
        let message = "virtual columns (field `virtual_column`) are not built";
        return Err(Error::new(ErrorKind::NotImplemented, message));
    }
    let data_type = data_type
        .map(|json| type_from_json(&json))
        .transpose()
        .map_err(|error| error.context(format!("field `data_type` of column `{path}`")))?;
    let rename = rename.filter(|name| !name.is_empty());
    if rename.is_none() && data_type.is_none() && nullable.is_none() {
        return Err(Error::invalid(format!("nothing of column `{path}` is altered")));
    }
    Ok(ColumnAlteration { path, rename, data_type, nullable })
}
