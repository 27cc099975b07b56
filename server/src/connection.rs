//! One accepted connection, with or without TLS.
//!
//! Two watches, each on its own side of TLS. What a peer takes in is watched on the socket, where it
//! can be seen; that it sends something at all is watched on what TLS lets through, because a
//! handshake alone asks for nothing. What always holds: a connection keeps its slot until it is
//! dropped, its handshake included.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::accept::ConnectionRules;

/// How long a peer may take to shake hands, which takes it some round trips.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);

/// A connection that is ready for requests; its slot is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    first_byte: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Connection {
    /// A connection that speaks plainly.
    pub(crate) fn plain(socket: Socket, rules: ConnectionRules) -> Self {
        Connection::over(Transport::Plain(socket), rules)
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// When the peer does not speak TLS, has no protocol in common with the port, or is too slow.
    pub(crate) async fn tls(
        socket: Socket,
        acceptor: TlsAcceptor,
        rules: ConnectionRules,
    ) -> io::Result<Self> {
        let wait = rules.first_byte_wait.min(HANDSHAKE_WAIT_MAX);
        let stream =
            tokio::time::timeout(wait, acceptor.accept(socket)).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the handshake takes too long")
            })??;
        Ok(Connection::over(Transport::Tls(Box::new(stream)), rules))
    }

    fn over(transport: Transport, rules: ConnectionRules) -> Self {
        let first_byte = Some(Box::pin(tokio::time::sleep(rules.first_byte_wait)));
        Connection { transport, first_byte }
    }
}

/// Does the same to whatever carries the bytes.
macro_rules! on_transport {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.get_mut().transport {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
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
        on_transport!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_transport!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.transport {
            Transport::Plain(socket) => socket.stream.connect_info(),
            Transport::Tls(stream) => stream.get_ref().0.stream.connect_info(),
        }
    }
}

/// An accepted socket in its slot, which gives up a peer that takes nothing in.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    write_stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl Socket {
    /// A socket that was just accepted.
    pub(crate) fn new(
        stream: TcpStream,
        slot: OwnedSemaphorePermit,
        rules: ConnectionRules,
    ) -> Self {
        Socket { stream, write_stall: rules.write_stall, stalled: None, _slot: slot }
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

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
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
