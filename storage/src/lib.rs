//! The lake's tables: opened, read, written and committed durably.
#![recursion_limit = "256"]

mod lake;
mod system;

pub use lake::{Lake, LakeOptions};
pub use system::{SystemObject, SystemStore};
