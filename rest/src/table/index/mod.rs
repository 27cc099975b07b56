//! Verbs on the indexes of a table, one file each.

pub(crate) mod create;
pub(crate) mod drop_index;
pub(crate) mod list;
pub(crate) mod prewarm;
pub(crate) mod stats;
