//! From an error to an HTTP answer: status, number of the protocol, one JSON body.
//!
//! A handler returns an [`ApiError`]. It becomes an empty answer that carries the error aside, and
//! `observe` writes the body, because only there the request id is known for certain.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use lakebed_core::{Error, ErrorKind, Subject};
use lakebed_proto::status::{KIND_HEADER, RETRY_AFTER_HEADER, codes};

/// What a handler answers when it cannot do what was asked.
#[derive(Debug)]
pub(crate) struct ApiError {
    error: Error,
    status: Option<StatusCode>,
    headers: HeaderMap,
}

impl ApiError {
    /// Answers with `status` instead of the one of the error's kind.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a header to the answer.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        ApiError { error, status: None, headers: HeaderMap::new() }
    }
}

/// Carries the error from the handler to where its body is written.
#[derive(Clone)]
pub(crate) struct Failure(pub(crate) Arc<Error>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError { error, status, headers } = self;
        let mut response = Response::default();
        *response.status_mut() = status.unwrap_or_else(|| status_of(&error));
        *response.headers_mut() = headers;
        response.extensions_mut().insert(Failure(Arc::new(error)));
        response
    }
}

/// The HTTP status of an error.
pub(crate) fn status_of(error: &Error) -> StatusCode {
    let (_, status) = codes(error.kind());
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The number that the Lance Namespace protocol gives to an error.
pub(crate) fn protocol_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::NotImplemented => 0,
        ErrorKind::NotFound => match error.subject() {
            Some(Subject::Namespace) => 1,
            // The protocol's numbers know neither functions nor secrets nor models.
            Some(Subject::Table | Subject::Function | Subject::Secret | Subject::Model) | None => 4,
            Some(Subject::Index) => 6,
            // The protocol knows neither cursors nor row sets; like tags they are names within a table.
            Some(Subject::Tag | Subject::Cursor | Subject::RowSet) => 8,
            Some(Subject::Version) => 11,
            Some(Subject::Column) => 12,
            Some(Subject::Branch) => 22,
        },
        ErrorKind::AlreadyExists => match error.subject() {
            Some(Subject::Namespace) => 2,
            Some(Subject::Index) => 7,
            Some(Subject::Tag | Subject::Cursor | Subject::RowSet) => 9,
            Some(Subject::Branch) => 23,
            Some(
                Subject::Table
                | Subject::Version
                | Subject::Column
                | Subject::Function
                | Subject::Secret
                | Subject::Model,
            )
            | None => 5,
        },
        ErrorKind::InvalidArgument => 13,
        // A namespace is only in conflict with what is in it.
        ErrorKind::Conflict if error.subject() == Some(Subject::Namespace) => 3,
        ErrorKind::Conflict => 14,
        ErrorKind::Denied => 15,
        ErrorKind::Unauthenticated => 16,
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => 17,
        ErrorKind::Cancelled
        | ErrorKind::CommitUnknown
        | ErrorKind::Corrupt
        | ErrorKind::Internal => 18,
        ErrorKind::Busy => 21,
    }
}

/// Writes the body and the headers that belong to `error` into `response`.
pub(crate) fn write_error(response: &mut Response, error: &Error, request_id: &str) {
    let body = serde_json::json!({
        "error": error.message(),
        "code": protocol_code(error),
        "request_id": request_id,
    });
    *response.body_mut() = body.to_string().into();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(KIND_HEADER, HeaderValue::from_static(error.kind().name()));
    if let Some(ms) = error.retry_after_ms() {
        headers.insert(RETRY_AFTER_HEADER, HeaderValue::from(ms));
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
    }
    if error.kind() == ErrorKind::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_number_of_the_protocol() {
        for kind in ErrorKind::ALL {
            assert!(protocol_code(&Error::new(kind, "x")) <= 23, "{kind:?}");
        }
        let tag = Error::not_found("tag `x` does not exist").about(Subject::Tag);
        assert_eq!(protocol_code(&tag), 8);
    }

    #[test]
    fn a_busy_answer_says_when_to_come_back() {
        let error = Error::new(ErrorKind::Busy, "full").with_retry_after_ms(1_200);
        let mut response = ApiError::from(error).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        let failure = response.extensions().get::<Failure>().unwrap().clone();
        write_error(&mut response, &failure.0, "r-1");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[RETRY_AFTER_HEADER], "1200");
        assert_eq!(response.headers()[KIND_HEADER], "busy");
    }
}
