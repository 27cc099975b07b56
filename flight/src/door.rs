//! The outermost layer of the Flight port: what every request passes on its way in and out.
//!
//! ```text
//!   request ──► request id, deadline, body watch ──► method ──► observed body ──► response
//!                                                      └── a panic becomes INTERNAL
//! ```
//!
//! DoGet is answered here on the level of HTTP (see `do_get.rs`), everything else by tonic's
//! generated service. What always holds: each request is counted once, with the status its client saw,
//! and carries its request id in the answer's headers, also where tonic itself refuses it.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::flight_service_server::FlightServiceServer;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Request, Response};
use lakebed_core::Error;
use lakebed_proto::status::REQUEST_ID_HEADER;
use tonic::server::NamedService;
use tower::Service;
use tracing::Instrument;

use crate::body_watch::{BodyEnd, WatchedBody};
use crate::do_get;
use crate::forward::{self, Routed};
use crate::observe::{Observed, ObservedBody};
use crate::request::{Deadline, RequestId, status};
use crate::service::Flight;

const NAME: &str = "arrow.flight.protocol.FlightService";
/// The names of metrics and spans; anything else is one name, so that nobody can make up labels.
const METHODS: [&str; 10] = [
    "Handshake",
    "ListFlights",
    "GetFlightInfo",
    "PollFlightInfo",
    "GetSchema",
    "DoGet",
    "DoPut",
    "DoExchange",
    "DoAction",
    "ListActions",
];

/// The Flight port's service: a tower service that tonic's router takes.
#[derive(Clone)]
pub struct FlightDoor {
    flight: Arc<Flight>,
    generated: FlightServiceServer<Flight>,
}

impl FlightDoor {
    pub(crate) fn new(flight: Flight) -> Self {
        let message_bytes_max = flight.service.limits().message_bytes_max;
        let flight = Arc::new(flight);
        let generated = FlightServiceServer::from_arc(Arc::clone(&flight))
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max);
        FlightDoor { flight, generated }
    }

    async fn route(
        mut self,
        request: Request<tonic::body::Body>,
        method: &'static str,
    ) -> Response<tonic::body::Body> {
        let request = match forward::route(&self.flight.service, method, request).await {
            Routed::Here(request) => request,
            Routed::Answered(answer) => return answer,
        };
        if method == "DoGet" {
            return do_get::respond(Arc::clone(&self.flight.service), request).await;
        }
        match self.generated.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl NamedService for FlightDoor {
    const NAME: &'static str = NAME;
}

impl<B> Service<Request<B>> for FlightDoor
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let method = method_of(request.uri().path());
        let id = RequestId::of(request.headers());
        let span = tracing::info_span!("flight", method, request_id = id.as_str());
        let observed = Observed::begin(method);

        let end = BodyEnd::default();
        let deadline = Deadline::of(request.headers());
        let extensions = request.extensions_mut();
        extensions.insert(id.clone());
        extensions.insert(end.clone());
        if let Some(deadline) = deadline {
            extensions.insert(deadline);
        }
        let received = metrics::counter!("lakebed_flight_bytes_total", "direction" => "in");
        let request =
            request.map(|body| tonic::body::Body::new(WatchedBody::new(body, end, received)));

        let door = self.clone();
        let answer = async move {
            let routed = AssertUnwindSafe(door.route(request, method)).catch_unwind().await;
            let mut response = routed.unwrap_or_else(|_| {
                status(&Error::internal("the server failed on this call"), id.as_str()).into_http()
            });
            if let Ok(value) = HeaderValue::from_str(id.as_str()) {
                response.headers_mut().insert(REQUEST_ID_HEADER, value);
            }
            let observed = observed.answered(response.headers());
            Ok(response.map(|body| tonic::body::Body::new(ObservedBody::new(body, observed, id))))
        };
        Box::pin(answer.instrument(span))
    }
}

fn method_of(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    METHODS.into_iter().find(|method| *method == name).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_name() {
        assert_eq!(method_of("/arrow.flight.protocol.FlightService/DoGet"), "DoGet");
        assert_eq!(method_of("/arrow.flight.protocol.FlightService/Drop"), "unknown");
        assert_eq!(method_of(""), "unknown");
    }
}
