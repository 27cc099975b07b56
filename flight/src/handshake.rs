//! Handshake: a basic login, or a token in the payload, becomes a bearer token.
//!
//! The token is the key itself: keys are long random texts, so a second secret derived from one would
//! add nothing. The answer carries it as an `authorization` header, where pyarrow's
//! `authenticate_basic_token` and ADBC look, and as the payload, where older clients do.

use arrow_flight::{BasicAuth, HandshakeRequest, HandshakeResponse};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::Service;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

use crate::request::{Authorization, authorization, status};

/// The largest payload that is looked at; keys are far smaller.
const PAYLOAD_BYTES_MAX: usize = 4 << 10;

/// Answers a handshake.
pub(crate) async fn handshake<S>(
    service: &Service,
    metadata: &MetadataMap,
    request_id: &str,
    mut messages: S,
) -> Result<Response<HandshakeResponse>, Status>
where
    S: Stream<Item = Result<HandshakeRequest, Status>> + Unpin,
{
    let key = match metadata.get(http::header::AUTHORIZATION.as_str()) {
        Some(value) => match authorization(value.as_bytes()) {
            Ok(Authorization::Bearer(key) | Authorization::Basic(key)) => Some(key),
            Err(error) => return Err(status(&error, request_id)),
        },
        None => match messages.next().await {
            Some(Ok(first)) => in_payload(&first.payload),
            Some(Err(status)) => return Err(status),
            None => None,
        },
    };
    let answer = async {
        service.authenticate(key.as_deref()).await?;
        let token = key.unwrap_or_default();
        let mut response = Response::new(HandshakeResponse {
            protocol_version: 0,
            payload: Bytes::from(token.clone()),
        });
        let mut header = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| {
            Error::new(ErrorKind::Unauthenticated, "the key has characters that no header carries")
        })?;
        header.set_sensitive(true);
        response.metadata_mut().insert(http::header::AUTHORIZATION.as_str(), header);
        Ok(response)
    };
    answer.await.map_err(|error| status(&error, request_id))
}

/// The key in a handshake's payload: a `BasicAuth` message with the key as password, or the bare key.
fn in_payload(payload: &[u8]) -> Option<String> {
    if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    match BasicAuth::decode(payload) {
        Ok(login) if !login.password.is_empty() => Some(login.password),
        _ => std::str::from_utf8(payload).ok().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_a_login_or_a_key() {
        let login = BasicAuth { username: "anna".to_owned(), password: "key".to_owned() };
        assert_eq!(in_payload(&login.encode_to_vec()).as_deref(), Some("key"));
        assert_eq!(in_payload(b"lb_0123").as_deref(), Some("lb_0123"));
        assert_eq!(in_payload(b""), None);
        assert_eq!(in_payload(b"\xff\xff"), None);
        assert_eq!(in_payload(&[b'k'; PAYLOAD_BYTES_MAX + 1]), None);
    }
}
