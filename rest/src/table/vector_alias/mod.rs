//! Verbs on aliases of columns of vectors, one file each.

pub(crate) mod drop_alias;
pub(crate) mod list;
pub(crate) mod set;
