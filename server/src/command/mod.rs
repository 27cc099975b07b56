//! One file for each verb of the command line.

pub(crate) mod completion;
pub(crate) mod doctor;
pub(crate) mod import;
pub(crate) mod index_create;
pub(crate) mod index_list;
pub(crate) mod jobs_change;
pub(crate) mod jobs_describe;
pub(crate) mod jobs_errors;
pub(crate) mod jobs_list;
pub(crate) mod jobs_submit;
pub(crate) mod jobs_wait;
pub(crate) mod keys_create;
pub(crate) mod keys_list;
pub(crate) mod keys_reset;
pub(crate) mod keys_revoke;
pub(crate) mod ls;
pub(crate) mod models_list;
pub(crate) mod relocate;
pub(crate) mod search;
pub(crate) mod show;
pub(crate) mod sql;
pub(crate) mod tag_create;
pub(crate) mod tag_delete;
pub(crate) mod tag_list;
pub(crate) mod version;
pub(crate) mod workers_list;
