//! `GET /v1/table` and `GET /v1/namespace/{id}/table/list`.
//!
//! With a slash at its end the first is the SDK's and gives the tables of the database's root;
//! without one it is the specification's and gives every table of the database, by its whole id.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{NamespacePath, Result, TableId};
use serde_json::{Map, Value};

use crate::Door;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::params::Params;
use crate::target::Target;

/// `include_declared` asks for the names of tables without data too, which is so where it is absent.
const KNOWN: [&str; 3] = ["limit", "page_token", "include_declared"];

pub(crate) async fn list_all_tables(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&KNOWN)?;
    let page = page_request(params)?;
    let root = NamespacePath::root();
    let namespace = target.is_sdk().then_some(&root);
    let delimiter = params.delimiter();
    // The SDKs open what is listed, which needs data.
    let with_declared = !target.is_sdk() && includes_declared(params)?;
    let mut names: Vec<String> = ids(&door, &target, namespace, with_declared)
        .await?
        .into_iter()
        .map(|id| match delimiter {
            "$" => id.text(),
            other => id.text().replace('$', other),
        })
        .collect();
    names.sort();
    Ok(answer(&page, names))
}

pub(crate) async fn list_tables(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&KNOWN)?;
    let page = page_request(params)?;
    let namespace = target.namespace()?;
    let ids = ids(&door, &target, Some(&namespace), includes_declared(params)?).await?;
    let mut names: Vec<String> = ids.into_iter().map(|id| id.name.as_str().to_owned()).collect();
    names.sort();
    Ok(answer(&page, names))
}

async fn ids(
    door: &Door,
    target: &Target,
    namespace: Option<&NamespacePath>,
    with_declared: bool,
) -> Result<Vec<TableId>> {
    let tables = door.service.list_tables(target.ctx(), namespace).await?;
    let mut ids: Vec<TableId> = tables.into_iter().map(|table| table.id).collect();
    if with_declared {
        ids.extend(door.service.list_declared(target.ctx(), namespace).await?);
    }
    Ok(ids)
}

fn includes_declared(params: &Params) -> Result<bool> {
    match params.text("include_declared") {
        None => Ok(true),
        Some(_) => params.flag("include_declared"),
    }
}

fn page_request(params: &Params) -> Result<PageRequest> {
    PageRequest::new(params.number("limit")?, params.text("page_token"))
}

fn answer(page: &PageRequest, names: Vec<String>) -> Response {
    let (names, token) = page.cut(names, |name| name);
    let mut body = Map::from_iter([("tables".to_owned(), Value::from(names))]);
    if let Some(token) = token {
        body.insert("page_token".to_owned(), Value::from(token));
    }
    Json(body).into_response()
}
