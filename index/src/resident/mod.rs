//! Resident indexes: columns of vectors that are searched in memory.
//!
//! ```text
//!   a version of a column ──► codes of a byte a number ──► a graph of them (hnsw_rs, laid flat)
//!          later versions ──► new rows compared one by one, deleted ones masked; now and then joined
//!                 a query ──► the nearest codes ──► the last candidates by their true vectors
//! ```
//!
//! A resident index is derived from the table and never the truth: it answers only for a version that it
//! shows exactly, and whatever it cannot answer is left to the table's own indexes. Nothing of it is in the
//! table; its files are a copy on the server's disk that saves a restart the building.
//!
//! - `residents.rs`: which columns have one, who asked for it, and how much memory they may take.
//! - `index.rs`: one column; `state.rs`: one version of it; `segment.rs`: a run of rows.
//! - `advance.rs`: from one version to the next; `upkeep.rs`: when segments are joined; `build.rs`: the long
//!   work; `calibrate.rs`: how much effort a search has to make.
//! - `quantiser.rs`, `kernel.rs`: codes and their distances; `graph.rs`, `refine.rs`: the graph; `search.rs`: the
//!   way through it; `nearest.rs`: the last comparison.
//! - `bench.rs`: the same without a table.
//! - `saved.rs`, `files.rs`: on disk.

mod advance;
pub mod bench;
mod bits;
mod build;
mod calibrate;
mod files;
mod graph;
mod index;
mod kernel;
mod nearest;
mod quantiser;
mod read;
mod refine;
mod residents;
mod row_ids;
mod saved;
mod search;
mod segment;
mod state;
mod upkeep;

pub use residents::{ResidentFound, ResidentOptions, ResidentStatus, Residents};
