//! Tags.
use lakebed_core::{RequestContext, Result, TableId, TagName};

use crate::Service;

/// A tag in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSummary {
    /// Its name.
    pub name: String,
    /// The version it names.
    pub version: u64,
    /// The branch of that version; main when absent.
    pub branch: Option<String>,
    /// The size of that version's manifest, in bytes.
    pub manifest_bytes: u64,
}

impl Service {
    /// Names a version.
    pub async fn create_tag(&self, _ctx: &RequestContext, _table: &TableId, _tag: &TagName, _version: u64) -> Result<()> {
        unimplemented!()
    }
    /// Moves a tag to another version.
    pub async fn update_tag(&self, _ctx: &RequestContext, _table: &TableId, _tag: &TagName, _version: u64) -> Result<()> {
        unimplemented!()
    }
    /// Deletes a tag.
    pub async fn delete_tag(&self, _ctx: &RequestContext, _table: &TableId, _tag: &TagName) -> Result<()> {
        unimplemented!()
    }
    /// The tags of a table, sorted by name.
    pub async fn list_tags(&self, _ctx: &RequestContext, _table: &TableId) -> Result<Vec<TagSummary>> {
        unimplemented!()
    }
}
