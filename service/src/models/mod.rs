//! Models that users register: versions of files by digest, which tags name and workers run.
//!
//! | to | look in |
//! | --- | --- |
//! | register a version | `register.rs` |
//! | list and describe models, read their files | `catalogue.rs` |
//! | move tags, drop versions | `change.rs` |
//! | tell workers what to run | `for_workers.rs` |
//!
//! What the declared fields mean is in `lakebed-jobs`, `registered.rs`.

mod catalogue;
mod change;
mod for_workers;
mod register;

pub use catalogue::ModelBytes;
pub use register::{RegisterFile, RegisterModel, RegisteredVersion};
