//! The one table from error kinds to gRPC and HTTP codes, and the gRPC status built from an error.

use lakebed_core::{Error, ErrorKind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Trailer that carries the kind's name, so that clients can rebuild the typed error.
pub const KIND_HEADER: &str = "x-lakebed-error-kind";
/// Trailer that carries the request id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Trailer that says after how many milliseconds to try again.
pub const RETRY_AFTER_HEADER: &str = "retry-after-ms";

/// gRPC messages are cut here: trailers travel in headers, which peers limit.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// The gRPC code and the HTTP status of a kind, side by side.
pub fn codes(kind: ErrorKind) -> (Code, u16) {
    match kind {
        ErrorKind::InvalidArgument => (Code::InvalidArgument, 400),
        ErrorKind::Unauthenticated => (Code::Unauthenticated, 401),
        ErrorKind::Denied => (Code::PermissionDenied, 403),
        ErrorKind::NotFound => (Code::NotFound, 404),
        ErrorKind::AlreadyExists => (Code::AlreadyExists, 409),
        ErrorKind::Conflict => (Code::Aborted, 409),
        ErrorKind::Busy => (Code::ResourceExhausted, 429),
        ErrorKind::Unavailable => (Code::Unavailable, 503),
        ErrorKind::DeadlineExceeded => (Code::DeadlineExceeded, 504),
        ErrorKind::Cancelled => (Code::Cancelled, 499),
        // Not a 5xx: the SDKs send a write again after one, and this one may have happened.
        ErrorKind::CommitUnknown => (Code::Unknown, 422),
        ErrorKind::NotImplemented => (Code::Unimplemented, 501),
        ErrorKind::Corrupt => (Code::DataLoss, 500),
        ErrorKind::Internal => (Code::Internal, 500),
    }
}

/// The gRPC status of an error of the request `request_id`.
pub fn to_status(error: &Error, request_id: &str) -> Status {
    let (code, _) = codes(error.kind());
    let mut status = Status::new(code, cut(error.message()));
    let metadata = status.metadata_mut();
    metadata.insert(KIND_HEADER, MetadataValue::from_static(error.kind().name()));
    if let Ok(id) = request_id.parse() {
        metadata.insert(REQUEST_ID_HEADER, id);
    }
    if let Some(ms) = error.retry_after_ms() {
        metadata.insert(RETRY_AFTER_HEADER, MetadataValue::from(ms));
    }
    status
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_codes_that_are_errors() {
        for kind in ErrorKind::ALL {
            let (grpc, http) = codes(kind);
            assert_ne!(grpc, Code::Ok);
            assert!((400..600).contains(&http), "{kind:?} is {http}");
        }
    }

    #[test]
    fn a_status_carries_kind_request_and_delay() {
        let error = Error::new(ErrorKind::Busy, "too many writes").with_retry_after_ms(250);
        let status = to_status(&error, "r-1");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(KIND_HEADER).unwrap(), "busy");
        assert_eq!(status.metadata().get(RETRY_AFTER_HEADER).unwrap(), "250");
        assert_eq!(status.metadata().get(REQUEST_ID_HEADER).unwrap(), "r-1");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = to_status(&Error::invalid("ä".repeat(5_000)), "r");
        assert!(status.message().len() <= MESSAGE_BYTES_MAX);
    }
}
