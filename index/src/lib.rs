//! Searching a table, and making sure that it has the indexes it needs.
//!
//! - `request.rs`: from what a client asks for to what is searched.
//! - `hybrid.rs`: a search by vector and by text at once.
//! - `rerank.rs`: the best rows in the order of a function.
//! - `scored.rs`: rows in an order of their own, with their scores.
//! - `search.rs`: which index answers a search, and what it leaves to be compared row by row.
//! - `near_rows.rs`: the rows that a resident index found.
//! - `resident/`: columns that are searched in memory.
//! - `text/`: marks in what was found, counts by value, and the words that were meant.
//! - `catalogue/`: the search over what there is: tables, columns, tags and what is said of them.
//! - `comparison/`: two columns of vectors, compared by what they find.
//! - `key_index.rs`: the scalar index that a partial upsert beside blobs cannot do without.

pub mod catalogue;
pub mod comparison;
mod hybrid;
mod key_index;
mod near_rows;
mod request;
mod rerank;
pub mod resident;
mod scored;
mod search;
mod text;

pub use hybrid::Hybrid;
pub use key_index::{ensure_key_index, index_name};
pub use request::{search_of, vector_column};
pub use rerank::{Reranked, Scorer};
pub use scored::RELEVANCE;
pub use search::Search;
pub use text::facets::{FACET_ROWS_MAX, count_facets};
pub use text::highlight::{HIGHLIGHTS, Marked};
pub use text::suggest::Dictionary;
