//! Tells the LanceDB SDKs which protocol they speak to.
//!
//! A client that sees no `phalanx-version` takes the server for version 0.1.0 and quietly leaves out
//! what came later. It looks at whichever answer it gets first, so every answer below `/v1/table` and
//! `/v1/namespace` says it, errors included.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};

const PROTOCOL_VERSION_HEADER: HeaderName = HeaderName::from_static("phalanx-version");
const PROTOCOL_VERSION: HeaderValue = HeaderValue::from_static("0.6.0");
const PROTOCOL_PATHS: [&str; 2] = ["/v1/table", "/v1/namespace"];

/// States the protocol's version on answers of the protocol.
pub(crate) async fn protocol_version(request: Request, next: Next) -> Response {
    let is_of_protocol = is_of_protocol(request.uri().path());
    let mut response = next.run(request).await;
    if is_of_protocol {
        response.headers_mut().insert(PROTOCOL_VERSION_HEADER, PROTOCOL_VERSION);
    }
    response
}

fn is_of_protocol(path: &str) -> bool {
    PROTOCOL_PATHS
        .iter()
        .filter_map(|prefix| path.strip_prefix(prefix))
        .any(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_protocol_are_told_apart() {
        for path in ["/v1/table", "/v1/table/", "/v1/table/t/drop", "/v1/namespace/a/table/list"] {
            assert!(is_of_protocol(path), "{path}");
        }
        for path in ["/", "/v1/tables", "/v1/uploads", "/version", "/v1/keys/table"] {
            assert!(!is_of_protocol(path), "{path}");
        }
    }
}
