//! `POST /v1/table/{id}/query`, `explain_plan` and `analyze_plan`.
//!
//! The rows come in the framing of an Arrow file, written while they are found: every generation of the
//! SDKs reads it. Which index answered is said in headers.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use lakebed_core::{Error, Result, SearchReport, Stage, StageClock};
use lakebed_proto::search::SearchRequest;
use lakebed_service::Found;
use serde::Deserialize;

use super::query_body::{QueryBody, search_request};
use super::{VERSION_HEADER, refused, versioned};
use crate::Door;
use crate::arrow_answer::{ARROW_FILE, arrow_file};
use crate::body::{BodyBytes, StrictBody, parse, parse_raw};
use crate::error::ApiError;
use crate::params::shown;
use crate::target::Target;
use crate::timeout::within_request_timeout;

const INDEX_HEADER: HeaderName = HeaderName::from_static("x-lakebed-index");
const INDEX_TYPE_HEADER: HeaderName = HeaderName::from_static("x-lakebed-index-type");
const VECTOR_COLUMN_HEADER: HeaderName = HeaderName::from_static("x-lakebed-vector-column");
const INDEXED_ROWS_HEADER: HeaderName = HeaderName::from_static("x-lakebed-indexed-rows");
/// Of the W3C; what browsers and proxies show as well.
const SERVER_TIMING_HEADER: HeaderName = HeaderName::from_static("server-timing");
const ROWS_SCANNED_HEADER: HeaderName = HeaderName::from_static("x-lakebed-rows-scanned");

pub(crate) async fn query(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    StrictBody(body): StrictBody<QueryBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let request = request(&target, body)?;
    let (found, first) = within_request_timeout(&headers, async {
        let mut found = door.service.search(target.ctx(), &request).await?;
        // What is wrong with a search often shows with its first rows, while a status can still say so.
        let mut clock = StageClock::start();
        let first = futures::TryStreamExt::try_next(&mut found.batches).await?;
        clock.end("rows");
        found.report.stages.extend(clock.stages());
        Ok((found, first))
    })
    .await
    .map_err(refused)?;
    let Found { schema, batches, report } = found;
    let body = Body::from_stream(arrow_file(schema, first, batches)?);
    let mut response = Response::new(body);
    let to = response.headers_mut();
    to.insert(CONTENT_TYPE, HeaderValue::from_static(ARROW_FILE));
    state(to, &report);
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ExplainPlan {
    id: Option<Vec<String>>,
    verbose: Option<bool>,
    query: Option<Box<serde_json::value::RawValue>>,
    branch: Option<String>,
}

pub(crate) async fn explain_plan(
    State(door): State<Door>,
    target: Target,
    BodyBytes(bytes): BodyBytes,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let body: ExplainPlan = parse(&bytes)?;
    target.check_id(body.id.as_deref())?;
    let mut query: QueryBody = match &body.query {
        Some(query) => parse_raw(query).map_err(|error| error.context("query"))?,
        None => QueryBody::default(),
    };
    query.branch = query.branch.or(body.branch);
    let request = request(&target, query)?;
    let verbose = body.verbose.unwrap_or(false);
    let explained = door.service.explain_search(target.ctx(), &request, verbose).await;
    let (plan, version) = explained.map_err(refused)?;
    Ok(versioned(plan, version))
}

pub(crate) async fn analyze_plan(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    StrictBody(body): StrictBody<QueryBody>,
) -> Result<Response, ApiError> {
    // One server runs all of it: what each worker did is what it did.
    let metrics = target.params(&["distributed_metrics"])?.text("distributed_metrics");
    if let Some(other) = metrics.filter(|metrics| !matches!(*metrics, "per_worker" | "full")) {
        let message = format!("`distributed_metrics` is `{}`", shown(other));
        return Err(Error::invalid(format!("{message}, not per_worker or full")).into());
    }
    let request = request(&target, body)?;
    let (plan, version) =
        within_request_timeout(&headers, door.service.analyze_search(target.ctx(), &request))
            .await
            .map_err(refused)?;
    Ok(versioned(plan, version))
}

fn request(target: &Target, body: QueryBody) -> Result<SearchRequest> {
    target.check_id(body.id.as_deref())?;
    search_request(target.table()?.text(), body)
}

/// Says which version and index answered.
fn state(headers: &mut HeaderMap, report: &SearchReport) {
    headers.insert(VERSION_HEADER, HeaderValue::from(report.version));
    if let Some(rows) = report.rows_scanned {
        headers.insert(INDEXED_ROWS_HEADER, HeaderValue::from(report.indexed_rows));
        headers.insert(ROWS_SCANNED_HEADER, HeaderValue::from(rows));
    }
    if let Ok(value) = HeaderValue::from_str(&timing(&report.stages)) {
        headers.insert(SERVER_TIMING_HEADER, value);
    }
    let texts = [
        (INDEX_HEADER, &report.index),
        (INDEX_TYPE_HEADER, &report.index_type),
        (VECTOR_COLUMN_HEADER, &report.vector_column),
    ];
    for (name, text) in texts {
        // A name that cannot stand in a header is left out.
        let value = text.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// The stages as `Server-Timing` has them, in milliseconds.
fn timing(stages: &[Stage]) -> String {
    let line = |stage: &Stage| format!("{};dur={:.3}", stage.name, stage.micros as f64 / 1_000.0);
    stages.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_which_index_it_comes_from() {
        let mut headers = HeaderMap::new();
        let report = SearchReport {
            version: 3,
            index: Some("vector_idx".to_owned()),
            index_type: Some("IVF_PQ".to_owned()),
            vector_column: Some("vector".to_owned()),
            indexed_rows: 100,
            rows_scanned: Some(5),
            stages: vec![
                Stage { name: "plan".to_owned(), micros: 1_250 },
                Stage { name: "rows".to_owned(), micros: 30 },
            ],
        };
        state(&mut headers, &report);
        assert_eq!(headers[VERSION_HEADER], "3");
        assert_eq!(headers[INDEX_HEADER], "vector_idx");
        assert_eq!(headers[ROWS_SCANNED_HEADER], "5");
        assert_eq!(headers[VECTOR_COLUMN_HEADER], "vector");
        assert_eq!(headers[SERVER_TIMING_HEADER], "plan;dur=1.250, rows;dur=0.030");
    }
}
