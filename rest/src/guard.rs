//! Keeps web pages away from a server that asks for no key.
//!
//! A server that lets everybody in listens on loopback only, but every page in the user's browser
//! can send requests there: by a name that is made to resolve to loopback (the Host header shows
//! it), or plainly across origins (the Origin header shows it). Clients that are no browsers send
//! neither.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{HOST, ORIGIN};
use lakebed_core::{Error, ErrorKind};

use crate::Door;
use crate::error::ApiError;

/// Refuses requests that a foreign page made, on a server that lets everybody in.
pub(crate) async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    if door.options.allow_anonymous
        && let Err(error) = check(&request)
    {
        return ApiError::from(error).into_response();
    }
    next.run(request).await
}

fn check<B>(request: &http::Request<B>) -> Result<(), Error> {
    let denied = |what: &str| {
        Error::new(
            ErrorKind::Denied,
            format!("{what} does not name this machine; the server allows anonymous requests"),
        )
    };
    // HTTP/2 has the authority in the URI and usually no Host header.
    let host = match request.headers().get(HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri().authority().map(|authority| authority.as_str()),
    };
    if !host.is_some_and(is_loopback) {
        return Err(denied("the Host header"));
    }
    if let Some(origin) = request.headers().get(ORIGIN) {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        if !origin.is_some_and(|(_, host)| is_loopback(host)) {
            return Err(denied("the Origin header"));
        }
    }
    Ok(())
}

/// Whether `host[:port]` is a loopback address or a name that always resolves to one.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
            _ => return false,
        },
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    if let Ok(address) = name.parse::<std::net::IpAddr>() {
        return address.is_loopback();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_look_alikes() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:10024",
            "127.1.2.3",
            "[::1]:5",
            "[::1]",
            "a.localhost:80",
            "localhost.:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:80",
            "[::2]",
            "[::1",
            "[::1]x",
            "notlocalhost",
            "0.0.0.0:1",
            "localhost:80:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn host_and_origin_must_both_be_of_this_machine() {
        let request = |headers: &[(&str, &str)]| {
            let mut request = http::Request::builder().uri("/v1/table");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(()).unwrap()
        };
        assert!(check(&request(&[("host", "localhost:1")])).is_ok());
        assert!(check(&request(&[])).is_err());
        let local = ("host", "127.0.0.1:1");
        assert!(check(&request(&[local, ("origin", "http://localhost:8888")])).is_ok());
        assert!(check(&request(&[local, ("origin", "https://example.com")])).is_err());
        assert!(check(&request(&[local, ("origin", "null")])).is_err());
        assert!(check(&request(&[("host", "rebound.example.com")])).is_err());
    }
}
