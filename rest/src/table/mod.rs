//! Verbs on tables, one file each.

pub(crate) mod count_rows;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod drop_table;
pub(crate) mod fetch_blobs;
pub(crate) mod index;
pub(crate) mod insert;
pub(crate) mod list;
pub(crate) mod merge_insert;
pub(crate) mod multipart_write;
pub(crate) mod query;
pub(crate) mod query_body;
pub(crate) mod rename;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod tags;
pub(crate) mod versions;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use serde::Serialize;

/// The version that was served or committed.
pub(crate) const VERSION_HEADER: &str = "x-lancedb-version";

/// A JSON answer that states the version it is about.
fn versioned(body: impl Serialize, version: u64) -> Response {
    let mut response = Json(body).into_response();
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(version));
    response
}
