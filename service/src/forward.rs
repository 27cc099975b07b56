//! Forwarding: a request that changes a table goes to the server that leads it.
//!
//! ```text
//!   request ─► who leads? ─► this server: the verb runs here
//!                  │
//!                  └► another: connect ─► send ─► its answer, as it comes
//!                        │ cannot be reached       │ goes silent for its time to live
//!                        └► wait, ask again        └► it is not known what it did
//! ```
//!
//! What always holds: a request is sent on at most once, and never by a server that got it from another
//! one. Until it is sent, whoever leads by then gets it; a leader that died is replaced within its time to
//! live, by this server if nobody else is faster. Bodies are streamed both ways, and a client that goes
//! away before the end of its body breaks it off at the leader, too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lakebed_storage::{Leader, ServerAddresses};
use tokio::time::Instant;

use crate::Service;
use crate::catalogue::PEER_CATALOGUE_PATH;
use crate::peer_io::{PeerIo, connect};

/// Marks a request that another server sent on, by that server's id.
const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-lakebed-forwarded-by");
/// Time to set up a connection in.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Time between two looks for a leader that can be reached.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A stream's window to another server, as large as the one that it gives its clients.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// What a body may break with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request that may be sent on.
pub type ForwardBody = UnsyncBoxBody<Bytes, BodyError>;

/// The lease of the lake's jobs and their workers.
pub(crate) const JOBS: &str = "jobs";

/// What a request is about, which one server leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Led {
    /// A table.
    Table(TableId),
    /// An upload, by its id.
    Upload(String),
    /// The jobs of the lake and the workers that run them.
    Jobs,
}

/// The door that a request came by, and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// HTTP, requests of REST.
    Http,
    /// HTTP/2 alone, gRPC.
    Flight,
}

/// What became of a request.
pub enum Forwarded {
    /// It is to be answered here.
    Here(Box<Request<ForwardBody>>),
    /// Another server answered it.
    Answered(Response<Incoming>),
}

/// Connections to the Flight ports of other servers, one for each, which carry all requests.
#[derive(Debug, Default)]
pub(crate) struct PeerConnections {
    flight: Mutex<HashMap<String, http2::SendRequest<ForwardBody>>>,
}

impl Service {
    /// Whether there can be no other server that a request has to go to. That none was seen yet does not
    /// say so: one may have joined a moment ago.
    pub fn is_alone(&self) -> bool {
        self.lake.servers().is_none()
    }

    /// The other server that leads `led`; nothing when this one does from here on.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn other_leader(&self, led: &Led) -> Result<Option<ServerAddresses>> {
        let subject = match led {
            Led::Table(id) => return self.lake.other_leader(id).await,
            Led::Upload(id) => format!("upload-{id}"),
            Led::Jobs => JOBS.to_owned(),
        };
        let Some(servers) = self.lake.servers() else { return Ok(None) };
        Ok(match servers.lead(&subject).await? {
            Leader::Here { .. } => None,
            Leader::There(other) => Some(other),
        })
    }

    /// Sends a request to the server that leads `led`, unless that is this one.
    ///
    /// # Errors
    /// `Unavailable` when no leader could be reached in time, and nothing was sent; `CommitUnknown` when
    /// the leader went away after it got the request.
    pub async fn forward(
        &self,
        led: &Led,
        port: Port,
        mut request: Request<ForwardBody>,
    ) -> Result<Forwarded> {
        let Some(servers) = self.lake.servers() else {
            return Ok(Forwarded::Here(Box::new(request)));
        };
        let was_forwarded = request.headers().contains_key(FORWARDED_HEADER);
        let ttl = Duration::from_millis(self.limits.server_ttl_ms);
        let deadline = Instant::now() + ttl * 3;
        loop {
            let Some(leader) = self.other_leader(led).await? else {
                return Ok(Forwarded::Here(Box::new(request)));
            };
            if was_forwarded {
                // The one that sent it has seen another state; its client tries again.
                return Err(unreachable(&leader, None));
            }
            match self.send_to(&leader, port, request).await.map_err(|error| known(led, error))? {
                Sent::Answered(response) => return Ok(Forwarded::Answered(response)),
                Sent::NotSent(given_back, why) => {
                    request = *given_back;
                    if Instant::now() > deadline {
                        return Err(unreachable(&leader, why));
                    }
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            if !servers.is_there(&leader.id) {
                tracing::info!(leader = leader.http, "a leader that cannot be reached is gone");
            }
        }
    }

    /// Sends a request to a server, once.
    pub(crate) async fn send_once(
        &self,
        to: &ServerAddresses,
        request: Request<ForwardBody>,
    ) -> Result<Response<Incoming>> {
        match self.send_to(to, Port::Http, request).await? {
            Sent::Answered(response) => Ok(response),
            Sent::NotSent(_, why) => Err(unreachable(to, why)),
        }
    }

    async fn send_to(
        &self,
        leader: &ServerAddresses,
        port: Port,
        request: Request<ForwardBody>,
    ) -> Result<Sent> {
        let base = match port {
            Port::Http => &leader.http,
            Port::Flight => &leader.flight,
        };
        let connected = tokio::time::timeout(CONNECT_MAX, self.sender(base, port)).await;
        let sender = match connected {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => {
                tracing::info!(base, error = %error.report(), "another server cannot be reached");
                return Ok(Sent::NotSent(Box::new(request), Some(error)));
            }
            Err(_) => return Ok(Sent::NotSent(Box::new(request), None)),
        };
        // A body that breaks on the client's side is told from a server that goes away.
        let is_broken = Arc::new(AtomicBool::new(false));
        let broke = Arc::clone(&is_broken);
        let request = self.readdressed(request, base, port)?.map(|body| {
            let noted = body.map_err(move |error| {
                broke.store(true, Ordering::Relaxed);
                error
            });
            noted.boxed_unsync()
        });
        // What servers tell one another is no request that was forwarded.
        if request.uri().path() != PEER_CATALOGUE_PATH {
            metrics::counter!("lakebed_forwarded_requests_total").increment(1);
        }
        let answer = async {
            match sender {
                Sender::Http(mut sender) => sender.try_send_request(request).await,
                Sender::Flight(mut sender) => sender.try_send_request(request).await,
            }
        };
        let mut answer = std::pin::pin!(answer);
        let look = Duration::from_millis(self.limits.server_ttl_ms) / 8;
        loop {
            tokio::select! {
                answered = &mut answer => {
                    return match answered {
                        Ok(response) => Ok(Sent::Answered(response)),
                        Err(mut error) => match error.take_message() {
                            Some(request) => {
                                self.peers.forget(base);
                                Ok(Sent::NotSent(Box::new(request), None))
                            }
                            None if is_broken.load(Ordering::Relaxed) => {
                                Err(broken_off().with_source(error.into_error()))
                            }
                            None => Err(unknown(leader).with_source(error.into_error())),
                        },
                    };
                }
                () = tokio::time::sleep(look) => {
                    if self.lake.servers().is_some_and(|servers| !servers.is_there(&leader.id)) {
                        self.peers.forget(base);
                        return Err(unknown(leader));
                    }
                }
            }
        }
    }

    /// The request as another server is to get it.
    fn readdressed(
        &self,
        mut request: Request<ForwardBody>,
        base: &str,
        port: Port,
    ) -> Result<Request<ForwardBody>> {
        let broken = |_| Error::internal("a request cannot be addressed to another server");
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        let uri: Uri = format!("{base}{path}").parse().map_err(broken)?;
        let authority = uri.authority().map(|authority| authority.as_str().to_owned());
        let headers = request.headers_mut();
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, ACCEPT_ENCODING, HOST] {
            headers.remove(name);
        }
        let me = self.lake.servers().map(|servers| servers.me().id.clone()).unwrap_or_default();
        headers.insert(FORWARDED_HEADER, HeaderValue::try_from(me).map_err(|_| broken_header())?);
        match port {
            Port::Http => {
                let host = authority.unwrap_or_default();
                headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| broken_header())?);
                *request.uri_mut() = path.parse().map_err(broken)?;
                *request.version_mut() = http::Version::HTTP_11;
            }
            Port::Flight => {
                *request.uri_mut() = uri;
                *request.version_mut() = http::Version::HTTP_2;
            }
        }
        Ok(request)
    }

    async fn sender(&self, base: &str, port: Port) -> Result<Sender> {
        if port == Port::Flight
            && let Some(open) = self.peers.open(base)
        {
            return Ok(Sender::Flight(open));
        }
        let io = connect(base, port, self.peer_tls.as_ref()).await?;
        match port {
            Port::Http => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(io)).await.map_err(no_handshake)?;
                tokio::spawn(connection);
                Ok(Sender::Http(sender))
            }
            Port::Flight => {
                let (sender, connection) = handshake2(io).await?;
                tokio::spawn(connection);
                self.peers.keep(base, sender.clone());
                Ok(Sender::Flight(sender))
            }
        }
    }
}

type Http2Connection = http2::Connection<TokioIo<PeerIo>, ForwardBody, TokioExecutor>;

async fn handshake2(io: PeerIo) -> Result<(http2::SendRequest<ForwardBody>, Http2Connection)> {
    http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .handshake(TokioIo::new(io))
        .await
        .map_err(no_handshake)
}

enum Sender {
    Http(http1::SendRequest<ForwardBody>),
    Flight(http2::SendRequest<ForwardBody>),
}

enum Sent {
    Answered(Response<Incoming>),
    /// Nothing reached the other server, and why where that is known.
    NotSent(Box<Request<ForwardBody>>, Option<Error>),
}

impl PeerConnections {
    fn open(&self, base: &str) -> Option<http2::SendRequest<ForwardBody>> {
        let flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        flight.get(base).filter(|sender| !sender.is_closed()).cloned()
    }

    fn keep(&self, base: &str, sender: http2::SendRequest<ForwardBody>) {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        flight.insert(base.to_owned(), sender);
    }

    fn forget(&self, base: &str) {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner).remove(base);
    }
}

fn no_handshake(error: hyper::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "another server does not speak HTTP").with_source(error)
}

fn broken_header() -> Error {
    Error::internal("a header for another server cannot be made")
}

fn broken_off() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the stream was cancelled or broken before its end; nothing was written",
    )
}

fn unreachable(leader: &ServerAddresses, why: Option<Error>) -> Error {
    let why = why.map(|why| format!(": {}", why.report())).unwrap_or_default();
    let message = format!("the server at {} leads and cannot be reached{why}", leader.http);
    Error::new(ErrorKind::Unavailable, message).with_retry_after_ms(1_000)
}

/// What workers and jobs ask may be asked again whatever became of it.
fn known(led: &Led, error: Error) -> Error {
    match (led, error.kind()) {
        (Led::Jobs | Led::Upload(_), ErrorKind::CommitUnknown) => {
            Error::new(ErrorKind::Unavailable, error.message().to_owned()).with_retry_after_ms(500)
        }
        _ => error,
    }
}

fn unknown(leader: &ServerAddresses) -> Error {
    let message = format!(
        "the server at {} went away before it answered; what it did is not known",
        leader.http
    );
    Error::new(ErrorKind::CommitUnknown, message)
}
