//! What helps people who search by text.
//!
//! - `matching.rs`: which words of a text a query matches.
//! - `fragments.rs`: the parts of a text that are worth showing.
//! - `highlight.rs`: a search whose rows show these parts, with what matched marked.
//! - `facets.rs`: counts by value over what a search finds.
//! - `suggest.rs`: the words that were meant.

pub(crate) mod facets;
mod fragments;
pub(crate) mod highlight;
mod matching;
pub(crate) mod suggest;
