//! Delete rows by a filter.
use lakebed_core::{RequestContext, Result, TableId};

use crate::Service;

impl Service {
    /// Deletes the rows for which `filter` is true; returns how many, and the version.
    pub async fn delete_rows(&self, _ctx: &RequestContext, _table: &TableId, _filter: &str) -> Result<(u64, u64)> {
        unimplemented!()
    }
}
