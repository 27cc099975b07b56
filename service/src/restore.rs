//! Restore an old version as the newest.
use lakebed_core::{RequestContext, Result, TableId};

use crate::Service;

impl Service {
    /// Commits `version` again as the newest version and returns its number.
    pub async fn restore(&self, _ctx: &RequestContext, _table: &TableId, _version: u64) -> Result<u64> {
        unimplemented!()
    }
}
