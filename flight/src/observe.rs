//! Counts requests, bytes and time, with the status that the client saw.
//!
//! The status of a streamed answer stands in its trailers, so a call is over when its body is: it is
//! counted when the body is dropped, as `cancelled` if it never came to its trailers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use lakebed_core::Error;
use metrics::Counter;
use tonic::{Code, Status};

use crate::request::{RequestId, status};

/// One call, counted when it is dropped.
#[derive(Debug)]
pub(crate) struct Observed {
    method: &'static str,
    started: Instant,
    code: Option<Code>,
}

impl Observed {
    /// A call that begins now.
    pub(crate) fn begin(method: &'static str) -> Self {
        metrics::gauge!("lakebed_requests_running", "door" => "flight").increment(1.0);
        Observed { method, started: Instant::now(), code: None }
    }

    /// Takes the headers of the answer, which hold the status of an answer without a body.
    pub(crate) fn answered(mut self, headers: &HeaderMap) -> Self {
        self.take_code(headers);
        self
    }

    fn take_code(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get(Status::GRPC_STATUS) {
            self.code = Some(Code::from_bytes(value.as_bytes()));
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let code = code_name(self.code.unwrap_or(Code::Cancelled));
        let method = self.method;
        let seconds = self.started.elapsed().as_secs_f64();
        // The names are those of the HTTP door, whose routes are paths.
        metrics::gauge!("lakebed_requests_running", "door" => "flight").decrement(1.0);
        metrics::histogram!("lakebed_request_seconds", "door" => "flight", "route" => method)
            .record(seconds);
        metrics::counter!(
            "lakebed_requests_total",
            "door" => "flight",
            "route" => method,
            "method" => "POST",
            "status" => code,
        )
        .increment(1);
        tracing::debug!(method, code, seconds, "call ended");
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The body of an answer, which counts its bytes, keeps the call until it is over, and turns a panic
/// of what produces it into a status.
pub(crate) struct ObservedBody {
    inner: tonic::body::Body,
    observed: Observed,
    bytes: Counter,
    id: RequestId,
    is_over: bool,
}

impl ObservedBody {
    pub(crate) fn new(inner: tonic::body::Body, observed: Observed, id: RequestId) -> Self {
        let bytes = metrics::counter!("lakebed_flight_bytes_total", "direction" => "out");
        ObservedBody { inner, observed, bytes, id, is_over: false }
    }
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.inner).poll_frame(cx)));
        let frame = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(frame)) => frame,
            Err(_) => {
                this.inner = tonic::body::Body::empty();
                let error = Error::internal("the server failed on this call");
                let mut trailers = HeaderMap::new();
                let _ = status(&error, this.id.as_str()).add_header(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
        };
        match &frame {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => this.bytes.increment(data.len() as u64),
                (None, Some(trailers)) => {
                    this.observed.take_code(trailers);
                    this.is_over = true;
                }
                (None, None) => {}
            },
            Some(Err(_)) | None => this.is_over = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    struct Panicking;

    impl Body for Panicking {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            panic!("on purpose");
        }
    }

    #[test]
    fn a_panic_of_a_body_is_a_status() {
        let id = RequestId::of(&HeaderMap::new());
        let inner = tonic::body::Body::new(Panicking);
        let mut body = ObservedBody::new(inner, Observed::begin("ListFlights"), id.clone());
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!("no frame")
        };
        let trailers = frame.into_trailers().unwrap();
        assert_eq!(trailers.get(Status::GRPC_STATUS).unwrap(), "13");
        assert_eq!(trailers.get("x-request-id").unwrap(), id.as_str());
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(None)));
        assert!(body.is_end_stream());
    }
}
