//! What travels on the wire, as plain types without an engine behind them.
//!
//! - [`command`]: the JSON commands of the Flight door, parsed strictly.
//! - [`changes`]: what a read of changes asks for.
//! - [`ipc_stream`], [`ipc_guard`], [`ipc_decode`]: what stands between Arrow bytes from outside and
//!   arrow's reader.
//! - [`receipt`]: what a write answers.
//! - [`search`]: what a search asks for.
//! - [`schema_json`]: schemas as JSON, in the two dialects of the LanceDB protocol.
//! - [`text_help`]: marks, counts, words that were meant, and the order of joined searches.
//! - [`worker`]: the worker protocol.
//! - [`status`]: the one table from Lakebed's error kinds to gRPC and HTTP codes.

pub mod changes;
pub mod command;
pub mod ipc_decode;
pub mod ipc_guard;
mod ipc_layout;
pub mod ipc_stream;
pub mod receipt;
pub mod schema_json;
pub mod search;
pub mod status;
pub mod text_help;
pub mod worker;

#[cfg(test)]
mod test_messages;
