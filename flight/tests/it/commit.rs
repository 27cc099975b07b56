//! When a write commits, and above all when it does not.

use std::time::Duration;

use arrow_flight::FlightData;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use http::{Request as HttpRequest, Response};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use crate::support::{Harness, State, batch, marker, messages, send};

const ON_END: &str = r#"{"write":{"table":"t","mode":"append"}}"#;
const EXPLICIT: &str = r#"{"write":{"table":"t","mode":"append","commit":"explicit"}}"#;

/// Enough rows that the write has long begun when the stream breaks.
async fn large_messages(command: &str) -> Vec<FlightData> {
    let batches: Vec<_> = (0..6).map(|n| batch(n * 50_000..(n + 1) * 50_000)).collect();
    messages(command, &batches).await
}

#[tokio::test]
async fn a_missing_or_wrong_marker_writes_nothing() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut client = server.client().await;
    let all = messages(EXPLICIT, &[batch(3..5), batch(5..9)]).await;
    let with = |last: FlightData| [all.clone(), vec![last]].concat();
    let said = |text: &str| FlightData::new().with_app_metadata(text.to_owned());
    for (messages, words) in [
        (all.clone(), "without the commit marker"),
        (with(marker(5)), "says 5 rows and 6 came"),
        (with(said(r#"{"commit":false,"rows":6}"#)), "says false"),
        (with(said("done")), "not a commit marker"),
        ([with(marker(6)), vec![all[1].clone()]].concat(), "follows the commit marker"),
    ] {
        let status = send(&mut client, messages).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(words), "{status}");
        assert_eq!(server.state("t").await, Some(before));
    }
    server.assert_untouched("t", before).await;
}

/// Messages that are sent one by one, and a way to know that the server has taken them.
struct Slow {
    sender: mpsc::Sender<FlightData>,
    stream: Option<ReceiverStream<FlightData>>,
}

impl Slow {
    fn new() -> Slow {
        let (sender, receiver) = mpsc::channel(1);
        Slow { sender, stream: Some(ReceiverStream::new(receiver)) }
    }
}

#[tokio::test]
async fn a_cancelled_call_writes_nothing() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    for command in [ON_END, EXPLICIT] {
        let mut client = server.client().await;
        let mut slow = Slow::new();
        let stream = slow.stream.take().unwrap();
        let call = tokio::spawn(async move { client.do_put(stream).await });
        for message in large_messages(command).await {
            slow.sender.send(message).await.unwrap();
        }
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        drop(slow);
    }
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn a_deadline_writes_nothing() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut client = server.client().await;
    let mut slow = Slow::new();
    let mut request = Request::new(slow.stream.take().unwrap());
    request.set_timeout(Duration::from_millis(300));
    let feeding = tokio::spawn(async move {
        for message in large_messages(ON_END).await {
            if slow.sender.send(message).await.is_err() {
                break;
            }
        }
        slow.sender.closed().await;
    });
    let status = client.do_put(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    feeding.await.unwrap();
    server.assert_untouched("t", before).await;
}

/// A DoPut on the level of HTTP/2.
struct RawPut {
    stream: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
    connection: JoinHandle<()>,
    _client: SendRequest<Bytes>,
}

impl RawPut {
    async fn begin(server: &Harness, timeout: Option<&str>) -> RawPut {
        let socket = TcpStream::connect(server.address).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut client = client.ready().await.unwrap();
        let uri = format!("http://{}/arrow.flight.protocol.FlightService/DoPut", server.address);
        let mut request = HttpRequest::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let (response, stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
        RawPut { stream, response, connection, _client: client }
    }

    /// Sends a message and waits until all of it has left for the connection.
    async fn send(&mut self, message: &FlightData) {
        let encoded = message.encode_to_vec();
        let mut frame = BytesMut::with_capacity(encoded.len() + 5);
        frame.put_u8(0);
        frame.put_u32(encoded.len() as u32);
        frame.put_slice(&encoded);
        let mut rest = frame.freeze();
        while !rest.is_empty() {
            self.stream.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| self.stream.poll_capacity(cx)).await;
            let room = room.expect("the stream is open").unwrap().min(rest.len());
            self.stream.send_data(rest.split_to(room), false).unwrap();
        }
    }

    fn end(&mut self) {
        self.stream.send_data(Bytes::new(), true).unwrap();
    }

    async fn answer(self) -> Response<h2::RecvStream> {
        tokio::time::timeout(Duration::from_secs(20), self.response).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn the_raw_put_itself_commits() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut put = RawPut::begin(&server, None).await;
    for message in messages(ON_END, &[batch(3..5)]).await {
        put.send(&message).await;
    }
    put.end();
    assert_eq!(put.answer().await.status(), 200);
    let after = State { version: before.version + 1, rows: before.rows + 2 };
    assert_eq!(server.state("t").await, Some(after));
    server.assert_untouched("t", after).await;
}

#[tokio::test]
async fn no_reset_commits_whatever_its_reason() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        for command in [ON_END, EXPLICIT] {
            let server = Harness::start().await;
            let before = server.seeded("t").await;
            let mut put = RawPut::begin(&server, None).await;
            for message in large_messages(command).await {
                put.send(&message).await;
            }
            if command == EXPLICIT {
                put.send(&marker(300_000)).await;
            }
            put.stream.send_reset(reason);
            server.assert_untouched("t", before).await;
            put.connection.abort();
        }
    }
}

#[tokio::test]
async fn a_killed_client_writes_nothing() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    for stop_inside_a_message in [false, true] {
        let mut put = RawPut::begin(&server, None).await;
        for message in large_messages(ON_END).await {
            put.send(&message).await;
        }
        if stop_inside_a_message {
            put.stream.send_data(Bytes::from_static(&[0, 0, 1]), false).unwrap();
        }
        // The socket closes under the stream, as it does when a process dies.
        put.connection.abort();
        assert!(put.connection.await.unwrap_err().is_cancelled());
    }
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_writes_nothing() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut put = RawPut::begin(&server, None).await;
    for message in messages(ON_END, &[batch(3..5)]).await {
        put.send(&message).await;
    }
    put.stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2]), true).unwrap();
    let response = put.answer().await;
    let code = response.headers().get("grpc-status").expect("an error without a body");
    assert_eq!(code, &(Code::InvalidArgument as i32).to_string());
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn a_deadline_of_the_server_itself_writes_nothing() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut put = RawPut::begin(&server, Some("300m")).await;
    for message in messages(ON_END, &[batch(3..5)]).await {
        put.send(&message).await;
    }
    // This client never cancels: only the server knows that the time is over.
    let response = put.answer().await;
    let code = response.headers().get("grpc-status").expect("an error without a body");
    let expected = [Code::DeadlineExceeded, Code::Cancelled].map(|c| (c as i32).to_string());
    assert!(expected.iter().any(|expected| code == expected), "{code:?}");
    server.assert_untouched("t", before).await;
}
