//! What travels on the wire, as plain types without an engine behind them.
//!
//! - [`command`]: the JSON commands of the Flight door, parsed strictly.
//! - [`receipt`]: what a write answers.
//! - [`status`]: the one table from Lakebed's error kinds to gRPC and HTTP codes.

pub mod command;
pub mod receipt;
pub mod status;
