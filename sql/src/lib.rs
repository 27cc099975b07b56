//! SQL over the lake: one statement is parsed, planned over pinned versions, and run.
//!
//! ```text
//!   text ──► parse ──► rewrite ──► open tables ──► plan ──► run ──► batches
//!            tokens:    syntax:     one pinned      DataFusion      memory, disk, time
//!            limits,    blobs,      version each                    and result bounded
//!            versions   row ids
//! ```
//!
//! Why a crate of its own: DataFusion's types stay in here, between storage, which shows a version as a
//! table, and the use cases, which decide who may ask. A query runs here; a change is only understood
//! here, as a [`Change`], and carried out by the verbs that already know how to write.
//!
//! What always holds: a statement sees one version of each table, however often it names it; only tables
//! that it names are opened; nothing that a client writes can make it recurse, hold memory or run
//! without a stated bound.
#![recursion_limit = "256"]

mod calls;
mod catalog;
mod change;
mod changes;
mod computed;
mod engine;
mod error;
mod expression;
mod functions;
mod hidden;
mod history;
mod json_columns;
mod late_blobs;
mod materialized;
mod memory;
mod merge;
mod named;
mod names;
mod parse;
mod plan;
mod primary_key;
mod rerank;
mod row_sets;
mod run;
mod search;
mod session;
mod spill;
mod time_travel;
mod types;
mod views;

use std::pin::Pin;

use arrow_array::RecordBatch;
use futures::Stream;

pub use calls::{CalledFunction, CalledModel, Callee, Callees, Parameter, RunningCall};
pub use change::{Change, IfExists};
pub use computed::{CallArgument, FunctionCall, KeptColumn};
pub use engine::{Sql, SqlOptions};
pub use expression::Bound;
pub use history::HistoryChange;
pub use named::number_names;
pub use names::{Scope, schema_name};
pub use parse::{Statement, StatementKind};
pub use plan::{PinnedTable, PlannedQuery};
pub use rerank::scorer;

/// Batches with the error that ended them.
pub type BatchStream = Pin<Box<dyn Stream<Item = lakebed_core::Result<RecordBatch>> + Send>>;
