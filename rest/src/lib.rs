//! The HTTP door: one file per verb, nothing decided here.
//!
//! Why it exists: the LanceDB and Lance Namespace protocol, uploads, blob bytes, keys, health and
//! metrics over HTTP. A handler authenticates, parses strictly, calls one verb of the service and
//! writes its answer; who may do what, and what is audited, is decided below.
//!
//! ```text
//!   request ─► tidy_path ─► protocol ─► gzip ─► observe ─► guard ─► catch panic ─► route ─► handler
//!              //v1 → /v1   version     of      id, log,   Host,                    table,    │
//!                           header      answers metrics,   Origin                   tag, …    ▼
//!                                               error body                             Service verb
//! ```
//!
//! What always holds: a known route of the protocol that is not built answers 501 and an unknown
//! one 404; a field that is not understood is a 400 that names it; every answer carries
//! `x-request-id`; every error has one JSON body, written in one place ([`error`]).

mod arrow_answer;
mod arrow_body;
mod arrow_schema;
mod backup;
mod blob;
mod blob_gc;
mod body;
mod caller;
mod catalogue;
mod drain;
mod error;
mod forward;
mod function;
mod guard;
mod gzip;
mod job;
mod key;
mod materialized_view;
mod model;
mod namespace;
mod not_built;
mod observe;
mod page;
mod params;
mod peers;
mod protocol_version;
mod range;
mod routes;
mod secret;
mod status;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod timeout;
mod to_the_end;
mod upload;
mod view;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use lakebed_service::Service;
use tokio_util::sync::CancellationToken;

pub use routes::router;

/// What the door has to know besides the service.
#[derive(Clone)]
pub struct RestOptions {
    /// The version that `/version` states.
    pub version: &'static str,
    /// Where the Flight door listens.
    pub flight_addr: SocketAddr,
    /// Whether requests without a key are let in; then Host and Origin are checked.
    pub allow_anonymous: bool,
    /// Whether no client is told where a table lies.
    pub hide_locations: bool,
    /// Renders the metrics of the process in Prometheus' text format.
    pub render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Cancelled when shutdown begins; `/readyz` says no from then on.
    pub stopping: CancellationToken,
}

/// An extension of requests: they come over a connection from the machine of the server, where a path
/// means the same to both sides.
#[derive(Debug, Clone, Copy)]
pub struct SameMachine;

/// What every handler holds on to.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) service: Arc<Service>,
    pub(crate) options: RestOptions,
}
