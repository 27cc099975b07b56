//! Which indexes a table needs, and making sure that it has them.
//!
//! Its first piece: the scalar index that a partial upsert beside blobs cannot do without.

mod key_index;

pub use key_index::ensure_key_index;
