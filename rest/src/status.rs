//! Is it alive, is it ready, what is it: the routes that need no key, and the metrics, which do.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, StatusCode};
use lakebed_core::{Error, ErrorKind, Result};
use serde_json::json;

use crate::Door;
use crate::caller::Caller;
use crate::error::ApiError;

/// A store that takes longer than this to say anything does not serve requests either.
const READY_TIME_MAX: Duration = Duration::from_secs(5);

/// `GET /livez`: the process answers.
pub(crate) async fn livez() -> Response {
    (StatusCode::OK, "ok\n").into_response()
}

/// `GET /readyz`: the store answers and the server is not shutting down.
pub(crate) async fn readyz(State(door): State<Door>) -> Result<Response, ApiError> {
    check_ready(&door).await?;
    Ok((StatusCode::OK, "ok\n").into_response())
}

/// `GET /health`: as `/readyz`, in JSON.
pub(crate) async fn health(State(door): State<Door>) -> Result<Response, ApiError> {
    check_ready(&door).await?;
    Ok(Json(json!({ "status": "ok", "version": door.options.version })).into_response())
}

async fn check_ready(door: &Door) -> Result<()> {
    if door.options.stopping.is_cancelled() {
        return Err(Error::new(ErrorKind::Unavailable, "the server is shutting down"));
    }
    match tokio::time::timeout(READY_TIME_MAX, door.service.check_ready()).await {
        Ok(Ok(())) => Ok(()),
        // Nobody has shown a key here: the reason stays in the log.
        Ok(Err(error)) => {
            Err(Error::new(ErrorKind::Unavailable, "the store does not answer").with_source(error))
        }
        Err(_) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the store did not answer within {} s", READY_TIME_MAX.as_secs()),
        )),
    }
}

/// `GET /version`: what clients need to find the Flight door.
pub(crate) async fn version(State(door): State<Door>, headers: HeaderMap) -> Response {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    Json(json!({
        "version": door.options.version,
        "flight": reachable(door.options.flight_addr, host),
        "lake_id": door.service.lake_id(),
    }))
    .into_response()
}

/// Where a client reaches `listening`. A server that listens on every address is told apart by the
/// host that the client itself used.
fn reachable(listening: SocketAddr, host: Option<&str>) -> String {
    let authority = host.and_then(|host| host.parse::<http::uri::Authority>().ok());
    match (listening.ip().is_unspecified(), authority) {
        (true, Some(authority)) => format!("{}:{}", authority.host(), listening.port()),
        _ => listening.to_string(),
    }
}

/// `GET /metrics`: Prometheus' text format, for any role.
pub(crate) async fn metrics(State(door): State<Door>, _caller: Caller) -> Response {
    let text = (door.options.render_metrics)();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_an_address_that_it_can_reach() {
        let everywhere: SocketAddr = "0.0.0.0:10025".parse().unwrap();
        assert_eq!(reachable(everywhere, Some("lake.example:10024")), "lake.example:10025");
        assert_eq!(reachable(everywhere, Some("[::1]:10024")), "[::1]:10025");
        assert_eq!(reachable(everywhere, None), "0.0.0.0:10025");
        assert_eq!(reachable(everywhere, Some("a b")), "0.0.0.0:10025");
        let local: SocketAddr = "127.0.0.1:10025".parse().unwrap();
        assert_eq!(reachable(local, Some("lake.example:1")), "127.0.0.1:10025");
    }
}
