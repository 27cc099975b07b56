//! Verbs on the catalogue as a whole.

pub(crate) mod search;
