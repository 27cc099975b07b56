//! The Arrow Flight door: one file per method over the use cases of `lakebed-service`.
//!
//! ```text
//!   client ──► door ──► request (who, which database, until when) ──► method ──► Service
//!               │                                                       │
//!        body_watch, observe                        descriptor, ticket, ipc_decode, encode
//! ```
//!
//! - Each method has the file of its name; `service.rs` is the list of them.
//! - DoPut: `do_put.rs` reads messages, `commit_marker.rs` and `body_watch.rs` decide whether the stream
//!   may commit, `feed.rs` carries batches to the write.
//! - Flight SQL: `sql/`. Workers: `worker.rs`.
//! - DoGet: `do_get.rs` runs the read, `batching.rs` sizes and `encode.rs` encodes what it gives.
//!
//! What always holds: nothing here decides what a verb means; every error leaves with a request id and
//! a kind; memory per call is bounded, whatever a client sends or how slowly it reads.

mod batching;
mod body_watch;
mod changes;
mod commit_marker;
mod descriptor;
mod do_action;
mod do_get;
mod do_put;
mod door;
mod encode;
mod feed;
mod forward;
mod get_flight_info;
mod get_schema;
mod handshake;
mod list_actions;
mod list_flights;
mod observe;
mod poll_flight_info;
mod request;
mod search;
mod service;
mod sql;
mod ticket;
mod worker;

use std::sync::Arc;

pub use door::FlightDoor;
use lakebed_service::Service;
pub use worker::worker_service;

/// The Flight service over `service`, ready for tonic's router:
/// `Server::builder().add_service(flight_service(service))`.
///
/// It holds everything that Flight needs: authentication, message limits from
/// `Limits::message_bytes_max`, request ids, deadlines, metrics and the containment of panics.
pub fn flight_service(service: Arc<Service>) -> FlightDoor {
    FlightDoor::new(service::Flight { service })
}
