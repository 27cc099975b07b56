//! Around every request: its id, its numbers, its log line, and the body of its error.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use lakebed_core::{Error, ErrorKind};
use lakebed_proto::status::REQUEST_ID_HEADER;
use uuid::Uuid;

use crate::drain::SharedBody;
use crate::error::{Failure, write_error};

const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id of a request, the client's where it sent a usable one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives the request its id, counts and logs it, and writes the body of its error.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let running = Running::begin();
    let request_id = request_id(request.headers());
    let method = request.method().clone();
    let route = route_of(&request);
    let is_http1 = request.version() < Version::HTTP_2;
    let waits_for_continue = request.headers().contains_key(http::header::EXPECT);

    let (request, body) = share_body(request, &request_id);
    let mut response = next.run(request).await;

    let failure = response.extensions_mut().remove::<Failure>().map(|failure| failure.0);
    let failure = failure.or_else(|| plain_failure(&response).map(Into::into));
    if let Some(error) = &failure {
        write_error(&mut response, error, &request_id);
        log_failure(error, response.status(), &request_id, &method, &route);
        if is_http1 && (body.was_asked() || !waits_for_continue) {
            body.drain().await;
        }
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID_HEADER), value);
    }
    record(&method, route, response.status(), began);
    drop(running);
    response
}

/// Puts the id into the request and makes its body one that can be drained after the handler.
fn share_body(request: Request, request_id: &str) -> (Request, SharedBody) {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(RequestId(request_id.to_owned()));
    let body = SharedBody::new(body);
    (Request::from_parts(parts, Body::new(body.clone())), body)
}

/// The id that the client sent, where it can stand in a header and a log line, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID_HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_graphic())
        })
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The pattern that was matched, never the path itself: labels of metrics must stay few.
fn route_of(request: &Request) -> String {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", |matched| matched.as_str())
        .to_owned()
}

/// The error of an answer that axum made itself and that carries none of ours.
fn plain_failure(response: &Response) -> Option<Error> {
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            Some(Error::invalid("this route does not take this method"))
        }
        _ => None,
    }
}

fn log_failure(error: &Error, status: StatusCode, request_id: &str, method: &Method, route: &str) {
    let (kind, status) = (error.kind().name(), status.as_u16());
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::CommitUnknown => tracing::error!(
            request_id, %method, route, status, kind, error = error.report(), "request failed"
        ),
        _ => tracing::debug!(
            request_id, %method, route, status, kind, error = error.report(), "request refused"
        ),
    }
}

fn record(method: &Method, route: String, status: StatusCode, began: Instant) {
    // Methods are free text in HTTP; only those of the routes become labels.
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    metrics::histogram!("lakebed_request_seconds", "door" => "http", "route" => route.clone())
        .record(began.elapsed());
    metrics::counter!(
        "lakebed_requests_total",
        "door" => "http",
        "route" => route,
        "method" => method,
        "status" => status.as_u16().to_string(),
    )
    .increment(1);
}

/// Counts requests that have no answer yet, also those whose client went away.
struct Running;

impl Running {
    fn begin() -> Self {
        metrics::gauge!("lakebed_requests_running", "door" => "http").increment(1.0);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::gauge!("lakebed_requests_running", "door" => "http").decrement(1.0);
    }
}

/// The answer to a handler that panicked.
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    // The text of a panic may hold anything; it goes to the log as the cause, never to the client.
    let error = Error::internal("the request ended in a panic").with_source(text);
    axum::response::IntoResponse::into_response(crate::error::ApiError::from(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_id_is_kept_and_another_replaced() {
        let with = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID_HEADER, HeaderValue::from_bytes(value).unwrap());
            request_id(&headers)
        };
        assert_eq!(with(b"abc-1"), "abc-1");
        assert_ne!(with(b"with space"), "with space");
        assert!(Uuid::parse_str(&with(&[b'x'; 200])).is_ok());
        assert!(Uuid::parse_str(&request_id(&HeaderMap::new())).is_ok());
    }
}
