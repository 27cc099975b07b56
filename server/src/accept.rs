//! Accepts connections, for both ports.
//!
//! What always holds: at most `connections_max` connections of a port are open; one that sends
//! nothing at first, or takes nothing in while there is something to send, is closed. A port
//! survives errors of single connections and a process that is out of file descriptors.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Pause after an error of the port itself, most often "too many open files".
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of a port may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionRules {
    /// Open connections at one time.
    pub(crate) connections_max: usize,
    /// How long a connection may wait before its first byte.
    pub(crate) first_byte_wait: Duration,
    /// How long a peer may take nothing in while there is something to send.
    pub(crate) write_stall: Duration,
}

/// The connections of a port, as they come. Never ends.
pub(crate) fn connections(
    listener: TcpListener,
    rules: ConnectionRules,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let slots = Arc::new(Semaphore::new(rules.connections_max));
    futures::stream::unfold((listener, slots), move |(listener, slots)| async move {
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Small answers must not wait for more to send; failing only makes them slower.
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(Connection::new(stream, slot, rules)), (listener, slots)));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connections cannot be accepted");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    })
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// An accepted connection; its slot is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    first_byte: Option<Pin<Box<Sleep>>>,
    write_stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, slot: OwnedSemaphorePermit, rules: ConnectionRules) -> Self {
        Connection {
            stream,
            first_byte: Some(Box::pin(tokio::time::sleep(rules.first_byte_wait))),
            write_stall: rules.write_stall,
            stalled: None,
            _slot: slot,
        }
    }

    /// Watches over a write: one that stays pending for too long becomes an error.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = self.write_stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + deadline)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing in")))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            this.first_byte = None;
        } else if let Some(first_byte) = &mut this.first_byte {
            ready!(first_byte.as_mut().poll(cx));
            let message = "the peer sent nothing";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn rules(wait: Duration) -> ConnectionRules {
        ConnectionRules { connections_max: 1, first_byte_wait: wait, write_stall: wait }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    async fn pair(wait: Duration) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut incoming = Box::pin(connections(listener, rules(wait)));
        let server = incoming.next().await.unwrap().unwrap();
        (client, server)
    }

    #[tokio::test]
    async fn a_peer_that_sends_nothing_is_given_up() {
        let (_client, mut server) = pair(SHORT).await;
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_in_is_given_up() {
        let (_client, mut server) = pair(SHORT).await;
        let error = server.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn bytes_go_both_ways() {
        let (mut client, mut server) = pair(LONG).await;
        client.write_all(b"ping").await.unwrap();
        let mut buf = [0; 4];
        server.read_exact(&mut buf).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"pong");
    }

    #[tokio::test]
    async fn a_slot_is_free_again_when_its_connection_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let _clients = (TcpStream::connect(addr).await, TcpStream::connect(addr).await);
        let mut incoming = Box::pin(connections(listener, rules(LONG)));
        let first = incoming.next().await.unwrap().unwrap();
        assert!(futures::poll!(incoming.next()).is_pending());
        drop(first);
        incoming.next().await.unwrap().unwrap();
    }
}
