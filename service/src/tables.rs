//! Rename and drop.
use lakebed_core::{RequestContext, Result, TableId};

use crate::Service;

impl Service {
    /// Gives a table another name; its folder stays.
    pub async fn rename_table(&self, _ctx: &RequestContext, _from: &TableId, _to: &TableId) -> Result<()> {
        unimplemented!()
    }
    /// Drops a table with all its versions.
    pub async fn drop_table(&self, _ctx: &RequestContext, _table: &TableId) -> Result<()> {
        unimplemented!()
    }
}
