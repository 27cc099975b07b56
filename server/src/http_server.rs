//! Serves HTTP/1 and HTTP/2 on accepted connections, and stops gently.

use std::io;
use std::time::Duration;

use axum::{Extension, Router};
use futures::{Stream, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use lakebed_rest::SameMachine;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected as _;

use crate::connection::Connection;

/// Heads of requests: filters travel in query strings, percent-encoded, up to three bytes for one.
const HEAD_BYTES_MAX: usize = 512 << 10;
const HTTP2_HEAD_BYTES_MAX: u32 = 256 << 10;
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const STREAMS_MAX: u32 = 256;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves `router` until `stop` is cancelled, then lets what runs finish. Dropping the future cuts
/// it off.
pub(crate) async fn serve(
    incoming: impl Stream<Item = io::Result<Connection>>,
    router: Router,
    header_wait: Duration,
    stop: CancellationToken,
) {
    let builder = builder(header_wait);
    let mut incoming = Box::pin(incoming);
    let mut open = JoinSet::new();
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => break,
            // Finished tasks are taken out as they end, so that the set holds open connections
            // only.
            Some(_) = open.join_next() => continue,
            next = incoming.next() => match next {
                Some(Ok(connection)) => connection,
                Some(Err(_)) => continue,
                None => break,
            },
        };
        open.spawn(serve_connection(builder.clone(), connection, router.clone(), stop.clone()));
    }
    // The port refuses new connections from here on.
    drop(incoming);
    while open.join_next().await.is_some() {}
}

async fn serve_connection(
    builder: Builder<TokioExecutor>,
    connection: Connection,
    router: Router,
    stop: CancellationToken,
) {
    let router = match comes_from_here(&connection) {
        true => router.layer(Extension(SameMachine)),
        false => router,
    };
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection(TokioIo::new(connection), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Peers that vanish are part of the weather.
        tracing::debug!(%error, "an HTTP connection ended with an error");
    }
}

/// Whether the peer is on this machine.
fn comes_from_here(connection: &Connection) -> bool {
    let peer = connection.connect_info().remote_addr();
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

fn builder(header_wait: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_wait)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HTTP2_HEAD_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::accept::{ConnectionRules, connections};

    const LONG: Duration = Duration::from_secs(60);

    async fn start(
        router: Router,
        stop: &CancellationToken,
    ) -> (TcpStream, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let rules =
            ConnectionRules { connections_max: 8, first_byte_wait: LONG, write_stall: LONG };
        let server = serve(connections(listener, rules, None), router, LONG, stop.clone());
        (client, tokio::spawn(server))
    }

    #[tokio::test]
    async fn a_running_request_is_finished_and_idle_connections_are_closed() {
        let (entered, wait_entered) = oneshot::channel();
        let (release, wait_release) = oneshot::channel::<()>();
        let parts = std::sync::Arc::new(std::sync::Mutex::new(Some((entered, wait_release))));
        let router = Router::new().route(
            "/slow",
            get(move || async move {
                let (entered, wait_release) = parts.lock().unwrap().take().unwrap();
                entered.send(()).unwrap();
                wait_release.await.unwrap();
                "done"
            }),
        );
        let stop = CancellationToken::new();
        let (mut client, server) = start(router, &stop).await;
        client.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        wait_entered.await.unwrap();
        stop.cancel();
        release.send(()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_the_end_open() {
        let stop = CancellationToken::new();
        let (mut client, server) = start(Router::new(), &stop).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        assert!(client.read(&mut [0; 1_024]).await.unwrap() > 0);
        stop.cancel();
        server.await.unwrap();
        assert_eq!(client.read(&mut [0; 1_024]).await.unwrap(), 0);
    }
}
