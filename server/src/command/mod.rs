//! One file for each verb of the command line.

pub(crate) mod completion;
pub(crate) mod import;
pub(crate) mod keys_create;
pub(crate) mod keys_list;
pub(crate) mod keys_reset;
pub(crate) mod keys_revoke;
pub(crate) mod ls;
pub(crate) mod relocate;
pub(crate) mod show;
pub(crate) mod tag_create;
pub(crate) mod tag_delete;
pub(crate) mod tag_list;
pub(crate) mod version;
