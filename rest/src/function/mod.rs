//! Verbs on functions that users register, one file each.

pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod drop_function;
pub(crate) mod list;

use lakebed_core::{Error, Result};
use serde::Deserialize;

/// The body that names a version.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OneVersion {
    id: Option<Vec<String>>,
    version: Option<String>,
}

impl OneVersion {
    fn number(&self) -> Result<u64> {
        let version = self.version.as_deref();
        let version = version.ok_or_else(|| Error::invalid("field `version` is missing"))?;
        version.parse().map_err(|_| Error::invalid("field `version` is no number in a text"))
    }
}
