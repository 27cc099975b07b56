//! The same ends over real connections: what hyper and h2 make of resets is the reason for the watch.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use h2::Reason;
use h2::client::SendRequest;
use http::{Request, Response};
use http_body::Body as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;

use super::*;

/// What the server sees of a request.
#[derive(Debug, PartialEq)]
enum Report {
    Data(usize),
    /// The body gave its last frame. Hyper calls some broken ends plain; that is what the watch is for.
    End {
        is_plain: bool,
        is_clean: bool,
        is_broken: bool,
    },
}

/// A service that reads its requests to their end and reports what comes.
#[derive(Clone)]
struct Reader(mpsc::UnboundedSender<Report>);

impl tonic::server::NamedService for Reader {
    const NAME: &'static str = "reader";
}

impl tower::Service<Request<tonic::body::Body>> for Reader {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let reports = self.0.clone();
        let end = BodyEnd::default();
        let mut body = WatchedBody::new(request.into_body(), end.clone(), Counter::noop());
        // Reads on its own, so that a reset does not end the reading before it is seen.
        tokio::spawn(async move {
            let is_plain = loop {
                match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    Some(Ok(frame)) => {
                        let _ = reports.send(Report::Data(frame.data_ref().map_or(0, Bytes::len)));
                    }
                    Some(Err(_)) => break false,
                    None => break true,
                }
            };
            let (is_clean, is_broken) = (end.is_clean(), end.is_broken());
            let _ = reports.send(Report::End { is_plain, is_clean, is_broken });
        });
        Box::pin(std::future::pending())
    }
}

struct Server {
    reports: mpsc::UnboundedReceiver<Report>,
    client: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

async fn server() -> Server {
    let (sender, reports) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(Reader(sender))
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    Server { reports, client: client.ready().await.unwrap(), connection }
}

impl Server {
    /// Begins a request whose first bytes have been read by the server.
    async fn begin(&mut self) -> h2::SendStream<Bytes> {
        let request = Request::post("http://localhost/reader/read").body(()).unwrap();
        let (_, mut stream) = self.client.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"xxx"), false).unwrap();
        assert_eq!(self.report().await, Report::Data(3));
        stream
    }

    async fn report(&mut self) -> Report {
        let report = tokio::time::timeout(Duration::from_secs(20), self.reports.recv()).await;
        report.expect("the server reports nothing").unwrap()
    }
}

const CLEAN_END: Report = Report::End { is_plain: true, is_clean: true, is_broken: false };

#[tokio::test]
async fn the_clients_own_end_is_clean() {
    let mut server = server().await;
    let mut stream = server.begin().await;
    stream.send_data(Bytes::from_static(b"yy"), true).unwrap();
    assert_eq!(server.report().await, Report::Data(2));
    assert_eq!(server.report().await, CLEAN_END);

    let mut stream = server.begin().await;
    stream.send_trailers(http::HeaderMap::new()).unwrap();
    assert_eq!(server.report().await, Report::Data(0));
    assert_eq!(server.report().await, CLEAN_END);

    let request = Request::post("http://localhost/reader/read").body(()).unwrap();
    let _response = server.client.send_request(request, true).unwrap();
    assert_eq!(server.report().await, CLEAN_END);
}

#[tokio::test]
async fn no_reset_is_clean_whatever_its_reason() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM]
    {
        let mut server = server().await;
        let mut stream = server.begin().await;
        stream.send_reset(reason);
        // Should hyper stop to call this one plain, the watch has one reason less.
        let is_plain = reason == Reason::NO_ERROR;
        let end = Report::End { is_plain, is_clean: false, is_broken: true };
        assert_eq!(server.report().await, end, "{reason:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_not_clean() {
    let mut server = server().await;
    let stream = server.begin().await;
    server.connection.abort();
    let end = Report::End { is_plain: false, is_clean: false, is_broken: true };
    assert_eq!(server.report().await, end);
    drop(stream);
}
