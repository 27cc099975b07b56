//! Connections to other servers of the lake, with TLS where their addresses say so.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use lakebed_core::{Error, ErrorKind, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::forward::Port;

/// How servers check each other's certificates: for HTTP, and for Flight, which is HTTP/2 alone.
#[derive(Debug, Clone)]
pub struct PeerTls {
    /// Of connections to HTTP ports.
    pub http: Arc<ClientConfig>,
    /// Of connections to Flight ports.
    pub flight: Arc<ClientConfig>,
}

/// One connection.
pub(crate) enum PeerIo {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to a base URL.
///
/// # Errors
/// `Unavailable` when nobody listens there or the certificate is refused.
pub(crate) async fn connect(base: &str, port: Port, tls: Option<&PeerTls>) -> Result<PeerIo> {
    let wrong = || Error::internal(format!("`{base}` is no address of a server"));
    let uri: Uri = base.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let has_tls = uri.scheme_str() == Some("https");
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let number = authority.port_u16().unwrap_or(if has_tls { 443 } else { 80 });
    let unavailable = |error: std::io::Error| {
        Error::new(ErrorKind::Unavailable, format!("connect to {base}")).with_source(error)
    };
    let stream = TcpStream::connect((host.as_str(), number)).await.map_err(unavailable)?;
    stream.set_nodelay(true).map_err(unavailable)?;
    if !has_tls {
        return Ok(PeerIo::Plain(stream));
    }
    let tls = tls.ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, format!("{base} has TLS and this server has none"))
    })?;
    let config = match port {
        Port::Http => &tls.http,
        Port::Flight => &tls.flight,
    };
    let name = ServerName::try_from(host).map_err(|_| wrong())?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    Ok(PeerIo::Tls(Box::new(stream.map_err(unavailable)?)))
}

impl AsyncRead for PeerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            PeerIo::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            PeerIo::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            PeerIo::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            PeerIo::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            PeerIo::Plain(stream) => Pin::new(stream).poll_flush(cx),
            PeerIo::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            PeerIo::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            PeerIo::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
