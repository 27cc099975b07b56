//! Verbs on tables, one file each.

pub(crate) mod add_columns;
pub(crate) mod alter_columns;
pub(crate) mod backfill_column;
pub(crate) mod branches;
pub(crate) mod changes;
pub(crate) mod clone_table;
pub(crate) mod compact;
pub(crate) mod compare_embeddings;
pub(crate) mod count_rows;
pub(crate) mod create;
pub(crate) mod cursors;
pub(crate) mod declare;
pub(crate) mod delete;
pub(crate) mod deregister;
pub(crate) mod describe;
pub(crate) mod drop_columns;
pub(crate) mod drop_table;
pub(crate) mod exists;
pub(crate) mod facets;
pub(crate) mod fetch_blobs;
pub(crate) mod field_metadata;
pub(crate) mod function_errors;
pub(crate) mod gc;
pub(crate) mod index;
pub(crate) mod insert;
pub(crate) mod list;
pub(crate) mod merge_insert;
pub(crate) mod multipart_write;
pub(crate) mod near_duplicates;
pub(crate) mod page_cache;
pub(crate) mod profile;
pub(crate) mod purge;
pub(crate) mod query;
pub(crate) mod query_body;
pub(crate) mod real_time;
pub(crate) mod register;
pub(crate) mod rename;
pub(crate) mod resident;
pub(crate) mod restore;
pub(crate) mod row_sets;
pub(crate) mod schema_metadata;
pub(crate) mod show;
pub(crate) mod stats;
pub(crate) mod suggest;
pub(crate) mod tags;
pub(crate) mod update;
pub(crate) mod vector_alias;
pub(crate) mod versions;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use lakebed_core::{Error, ErrorKind, Subject};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// The version that was served or committed.
pub(crate) const VERSION_HEADER: &str = "x-lancedb-version";

/// A JSON answer that states the version it is about.
fn versioned(body: impl Serialize, version: u64) -> Response {
    let mut response = Json(body).into_response();
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(version));
    response
}

/// The answer to an error of a verb that names columns in its body. The SDKs read any 404 of a table's
/// route as "no such table", so a column that does not exist is a bad request there; its number stays
/// the one for columns.
pub(crate) fn refused(error: Error) -> ApiError {
    let is_column = error.kind() == ErrorKind::NotFound && error.subject() == Some(Subject::Column);
    let answer = ApiError::from(error);
    match is_column {
        true => answer.with_status(StatusCode::BAD_REQUEST),
        false => answer,
    }
}

/// Refuses properties that a client of the specification wants to be kept with a table.
fn no_properties(properties: Option<&Map<String, Value>>) -> lakebed_core::Result<()> {
    match properties.is_none_or(Map::is_empty) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::NotImplemented,
            "properties of a table (field `properties`) are not built",
        )),
    }
}
