//! Searching a table, and making sure that it has the indexes it needs.
//!
//! - `request.rs`: from what a client asks for to what is searched.
//! - `hybrid.rs`: a search by vector and by text at once.
//! - `search.rs`: which index answers a search, and what it leaves to be compared row by row.
//! - `catalogue/`: the search over what there is: tables, columns, tags and what is said of them.
//! - `comparison/`: two columns of vectors, compared by what they find.
//! - `key_index.rs`: the scalar index that a partial upsert beside blobs cannot do without.

pub mod catalogue;
pub mod comparison;
mod hybrid;
mod key_index;
mod request;
mod search;

pub use hybrid::{Hybrid, RELEVANCE};
pub use key_index::{ensure_key_index, index_name};
pub use request::{search_of, vector_column};
pub use search::Search;
