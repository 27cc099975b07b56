//! Accepts connections, for both ports, and shakes hands where they speak TLS.
//!
//! What always holds: at most `connections_max` connections of a port are open, those that still
//! shake hands included; one that sends nothing at first, or takes nothing in while there is something
//! to send, is closed. Every handshake is a task of its own with a time limit, so a slow one keeps
//! nobody waiting. A port survives errors of single connections and a process that is out of file
//! descriptors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::connection::{Connection, Socket};

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

/// The connections of a port, as they come; through TLS if there is an acceptor. Never ends.
pub(crate) fn connections(
    listener: TcpListener,
    rules: ConnectionRules,
    tls: Option<TlsAcceptor>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let slots = Arc::new(Semaphore::new(rules.connections_max));
    let port = Port { listener, rules, slots, tls, handshakes: JoinSet::new() };
    futures::stream::unfold(port, |mut port| async move {
        let connection = port.next().await?;
        Some((Ok(connection), port))
    })
}

/// A port and the handshakes under way on it, which end with it.
struct Port {
    listener: TcpListener,
    rules: ConnectionRules,
    slots: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
    handshakes: JoinSet<Option<Connection>>,
}

impl Port {
    async fn next(&mut self) -> Option<Connection> {
        loop {
            let socket = tokio::select! {
                // Whoever shook hands goes before whoever only comes.
                biased;
                Some(shaken) = self.handshakes.join_next() => match shaken {
                    Ok(Some(connection)) => return Some(connection),
                    _ => continue,
                },
                socket = accept(&self.listener, &self.slots, self.rules) => socket?,
            };
            let Some(acceptor) = self.tls.clone() else {
                return Some(Connection::plain(socket, self.rules));
            };
            self.handshakes.spawn(shake_hands(socket, acceptor, self.rules));
        }
    }
}

/// The next socket, once there is a slot for it. May be dropped at any point and begun anew.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    rules: ConnectionRules,
) -> Option<Socket> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for more to send; failing only makes them slower.
                let _ = stream.set_nodelay(true);
                return Some(Socket::new(stream, slot, rules));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "connections cannot be accepted");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn shake_hands(
    socket: Socket,
    acceptor: TlsAcceptor,
    rules: ConnectionRules,
) -> Option<Connection> {
    match Connection::tls(socket, acceptor, rules).await {
        Ok(connection) => Some(connection),
        Err(error) => {
            // Scanners and clients without TLS are part of the weather.
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
    }
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

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    fn rules(wait: Duration) -> ConnectionRules {
        ConnectionRules { connections_max: 1, first_byte_wait: wait, write_stall: wait }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    async fn pair(wait: Duration) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut incoming = Box::pin(connections(listener, rules(wait), None));
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
        let mut incoming = Box::pin(connections(listener, rules(LONG), None));
        let first = incoming.next().await.unwrap().unwrap();
        assert!(futures::poll!(incoming.next()).is_pending());
        drop(first);
        incoming.next().await.unwrap().unwrap();
    }
}
