//! `POST /v1/table/{id}/row_sets/rows`: the ids of a row set, a page of them as JSON or all as they are
//! stored.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use lakebed_core::{Error, RowSetRef};
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

/// Ids of a page where the request does not say how many.
const LIMIT_DEFAULT: usize = 10_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RowsFormat {
    /// A list of numbers.
    #[default]
    Json,
    /// Roaring's portable format for 64 bits.
    Roaring,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RowSetRows {
    id: Option<Vec<String>>,
    /// `NAME` or `NAME@VERSION`.
    name: String,
    format: Option<RowsFormat>,
    /// Ids at most.
    limit: Option<usize>,
    /// Only ids above this one: the last one of the page before.
    after: Option<u64>,
}

pub(crate) async fn row_set_rows(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<RowSetRows>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let wanted = RowSetRef::parse(&body.name)?;
    let row_ids_max = door.service.limits().row_ids_max;
    let limit = body.limit.unwrap_or(LIMIT_DEFAULT.min(row_ids_max));
    if limit == 0 || limit > row_ids_max {
        return Err(Error::invalid(format!(
            "`limit` is {limit}; it has to be from 1 to row_ids_max = {row_ids_max}"
        ))
        .into());
    }
    let (set, rows) = door.service.row_set_ids(target.ctx(), &target.table()?, &wanted).await?;
    if body.format == Some(RowsFormat::Roaring) {
        if body.limit.is_some() || body.after.is_some() {
            return Err(Error::invalid("`limit` and `after` are for the format `json`").into());
        }
        let mut response = Response::new(Body::from(rows.to_bytes()?));
        let to = response.headers_mut();
        to.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        return Ok(response);
    }
    let mut ids = rows.ids().iter();
    if let Some(after) = body.after {
        match after.checked_add(1) {
            Some(first) => ids.advance_to(first),
            None => ids.advance_to(u64::MAX),
        }
    }
    let row_ids: Vec<u64> = ids.take(limit).collect();
    let answer = json!({
        "name": set.name,
        "version": set.version,
        "rows": set.rows,
        "row_ids": row_ids,
    });
    Ok(Json(answer).into_response())
}
