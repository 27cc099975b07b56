//! Keys on every call, and the handshake.

use arrow_flight::{BasicAuth, Empty, HandshakeRequest};
use lakebed_core::Limits;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::support::{Client, Harness};

const KEY: &str = "lb_test-key-of-thirty-two-bytes-or-more";

async fn server() -> Harness {
    let server = Harness::with(Limits::default(), false).await;
    server.service.set_admin_key(KEY).await.unwrap();
    server
}

async fn call(client: &mut Client, header: Option<(&'static str, &str)>) -> Result<(), Status> {
    let mut request = Request::new(Empty {});
    if let Some((name, value)) = header {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    client.list_actions(request).await.map(|_| ())
}

#[tokio::test]
async fn every_call_needs_a_key() {
    let server = server().await;
    let mut client = server.client().await;
    call(&mut client, Some(("authorization", &format!("Bearer {KEY}")))).await.unwrap();
    call(&mut client, Some(("x-api-key", KEY))).await.unwrap();
    for header in [
        None,
        Some(("authorization", "Bearer wrong")),
        Some(("authorization", "Bearer ")),
        Some(("authorization", "Basic dXNlcjpwYXNz")),
        Some(("x-api-key", "wrong")),
    ] {
        let status = call(&mut client, header).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{header:?}: {status}");
        assert!(status.metadata().get("x-request-id").is_some());
    }
    let status = client.do_get(arrow_flight::Ticket::new("")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = client.do_put(futures::stream::empty()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_clients_request_id_comes_back() {
    let server = server().await;
    let mut client = server.client().await;
    let mut request = Request::new(Empty {});
    request.metadata_mut().insert("x-request-id", "r-17".parse().unwrap());
    let status = client.list_actions(request).await.unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "r-17");
}

#[tokio::test]
async fn a_login_becomes_a_bearer_token() {
    use base64::Engine;
    let server = server().await;
    let mut client = server.client().await;
    let login = |password: &str| {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("anna:{password}"));
        let mut request = Request::new(futures::stream::empty::<HandshakeRequest>());
        let value: MetadataValue<_> = format!("Basic {pair}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    };
    let response = client.handshake(login(KEY)).await.unwrap();
    let token = response.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
    call(&mut client, Some(("authorization", &token))).await.unwrap();
    let status = client.handshake(login("wrong")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let payload = BasicAuth { username: "anna".to_owned(), password: KEY.to_owned() };
    let first = HandshakeRequest { protocol_version: 0, payload: payload.encode_to_vec().into() };
    let response = client.handshake(futures::stream::iter([first])).await.unwrap();
    let answer = response.into_inner().message().await.unwrap().unwrap();
    assert_eq!(answer.payload, KEY);
    let status = client.handshake(futures::stream::empty()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}
