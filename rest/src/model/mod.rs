//! Verbs on models, one file each.

pub(crate) mod describe;
pub(crate) mod drop_model;
pub(crate) mod file;
pub(crate) mod list;
pub(crate) mod missing;
pub(crate) mod register;
pub(crate) mod tag;
