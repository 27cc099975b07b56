//! `POST /v1/table/{id}/add_columns`: columns that SQL computes, or that a function will fill, as JSON, or
//! columns of nulls, as an Arrow stream that has a schema and no rows.

use arrow_schema::SchemaRef;
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::Declaration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{refused, versioned};
use crate::Door;
use crate::arrow_schema::schema_of_stream;
use crate::body::{StrictBody, read, refuse_encoding};
use crate::error::ApiError;
use crate::target::Target;

/// Thirty days.
const REFRESH_SECONDS_MAX: u64 = 30 * 86_400;
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AddColumns {
    id: Option<Vec<String>>,
    branch: Option<String>,
    new_columns: Vec<NewColumn>,
    function: Option<Declaration>,
    auto_refresh_enabled: Option<bool>,
    auto_refresh_interval_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewColumn {
    name: String,
    expression: Option<String>,
    computed: Option<String>,
    all_null: Option<bool>,
    virtual_column: Option<Value>,
}

pub(crate) async fn add_columns(
    State(door): State<Door>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    let table = target.table()?;
    let version = if is_arrow(&request) {
        let added = sent_schema(&door, request).await?;
        let branch = target.branch(None)?;
        door.service.add_null_columns(target.ctx(), &table, branch, added).await
    } else {
        let StrictBody(body) = StrictBody::<AddColumns>::from_request(request, &door).await?;
        target.check_id(body.id.as_deref())?;
        let branch = target.branch(body.branch.as_deref())?;
        match &body.function {
            Some(function) => {
                let names = columns_of_nulls(&body)?;
                let (ctx, service, every) = (target.ctx(), &door.service, refresh_every(&body)?);
                service.add_function_columns(ctx, &table, branch, &names, function, every).await
            }
            None if body.new_columns.iter().any(|column| column.computed.is_some()) => {
                let (columns, every) = (computed(&body)?, refresh_every(&body)?);
                let service = &door.service;
                service.add_computed_columns(target.ctx(), &table, branch, &columns, every).await
            }
            None => {
                let columns = expressions(&body)?;
                door.service.add_sql_columns(target.ctx(), &table, branch, &columns).await
            }
        }
    };
    let version = version.map_err(refused)?;
    Ok(versioned(json!({ "version": version }), version))
}

fn is_arrow(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(ARROW_STREAM.as_bytes()))
}

/// The schema of the columns, of which there are no values: it is read whole.
async fn sent_schema(door: &Door, request: Request) -> Result<SchemaRef, ApiError> {
    refuse_encoding(request.headers())?;
    let limits = door.service.limits();
    let bytes = read(request.into_body(), limits.json_body_bytes_max).await?;
    Ok(schema_of_stream(bytes.into(), limits)?)
}

/// The names of columns that a function is to fill.
fn columns_of_nulls(body: &AddColumns) -> Result<Vec<String>> {
    let names = body.new_columns.iter().map(|column| {
        let NewColumn { name, expression, computed, all_null, virtual_column } = column;
        let is_plain = expression.is_none() && computed.is_none() && virtual_column.is_none();
        match is_plain && *all_null == Some(true) {
            true => Ok(name.clone()),
            false => Err(Error::invalid(format!(
                "new column `{name}` of a function has to have `all_null` and nothing else"
            ))),
        }
    });
    names.collect()
}

/// Columns that SQL is to keep computed, with their expressions.
fn computed(body: &AddColumns) -> Result<Vec<(String, String)>> {
    let columns = body.new_columns.iter().map(|column| {
        let NewColumn { name, expression, computed, all_null, virtual_column } = column;
        let is_plain = expression.is_none() && all_null.is_none() && virtual_column.is_none();
        let sql = computed.clone().filter(|sql| !sql.is_empty() && is_plain).ok_or_else(|| {
            Error::invalid(format!("new column `{name}` has to have `computed` and nothing else"))
        })?;
        Ok((name.clone(), sql))
    });
    columns.collect()
}

/// The seconds between two refreshes of columns that refresh themselves.
fn refresh_every(body: &AddColumns) -> Result<Option<u64>> {
    match (body.auto_refresh_enabled, body.auto_refresh_interval_seconds) {
        (Some(true), every @ Some(1..=REFRESH_SECONDS_MAX)) => Ok(every),
        (Some(true), None) => Ok(Some(0)),
        (Some(true), Some(_)) => Err(Error::invalid(format!(
            "`auto_refresh_interval_seconds` is a number from 1 to {REFRESH_SECONDS_MAX}"
        ))),
        (_, Some(_)) => Err(Error::invalid(
            "`auto_refresh_interval_seconds` is for columns with `auto_refresh_enabled`",
        )),
        (_, None) => Ok(None),
    }
}

fn expressions(body: &AddColumns) -> Result<Vec<(String, String)>> {
    if body.auto_refresh_enabled == Some(true) || body.auto_refresh_interval_seconds.is_some() {
        let message = "`auto_refresh_enabled` is for columns with `computed` or `function`";
        return Err(Error::invalid(message));
    }
    let columns = body.new_columns.iter().map(|column| {
        let NewColumn { name, expression, computed, all_null, virtual_column } = column;
        if computed.is_some() {
            let message =
                "columns with `computed` and with `expression` are added by requests of their own";
            return Err(Error::invalid(message));
        }
        if virtual_column.is_some() {
            return Err(not_built("virtual columns (field `virtual_column`)"));
        }
        if *all_null == Some(true) {
            let message = "columns of nulls (field `all_null`) are sent as an Arrow schema";
            return Err(Error::invalid(message));
        }
        let expression = expression.clone().filter(|sql| !sql.is_empty()).ok_or_else(|| {
            Error::invalid(format!("new column `{name}` has no field `expression`"))
        })?;
        Ok((name.clone(), expression))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    match columns.is_empty() {
        true => Err(Error::invalid("field `new_columns` is missing or empty")),
        false => Ok(columns),
    }
}

fn not_built(what: &str) -> Error {
    Error::new(ErrorKind::NotImplemented, format!("{what} are not built"))
}
