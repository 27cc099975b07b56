//! Secrets: values that functions get in variables of their environment, and that nobody reads back.
//!
//! | to | look in |
//! | --- | --- |
//! | make and alter secrets | `put.rs` |
//! | describe, list and drop secrets | `catalogue.rs` |
//! | hand the values of a function to workers | `resolve.rs` |
//! | encrypt values; the file of the key | `key.rs` |
//!
//! The lake has values only as they were sealed, with a key that lies outside of it. In the server's memory a
//! value is there while a request brings it, while a worker is answered, and while a function that is to be
//! registered is tried.

mod catalogue;
mod key;
mod put;
mod resolve;

pub use catalogue::SecretSummary;
pub(crate) use key::KeyPlace;
pub use zeroize::Zeroizing;
