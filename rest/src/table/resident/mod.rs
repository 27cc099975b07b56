//! `POST /v1/table/{id}/resident/…`: columns of vectors that are searched in memory.

pub(crate) mod create;
pub(crate) mod drop;
pub(crate) mod list;
