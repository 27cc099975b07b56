//! What there is: databases, tables, one table in detail.
use arrow_schema::SchemaRef;
use lakebed_core::{DatabaseName, NamespacePath, RequestContext, Result, TableId};

use crate::Service;

/// A table in a listing.
#[derive(Debug, Clone)]
pub struct TableSummary {
    /// Its id.
    pub id: TableId,
    /// Where its folder lies, relative to the lake's root.
    pub location: String,
}

/// One table in detail.
#[derive(Debug, Clone)]
pub struct TableDetails {
    /// Its id.
    pub id: TableId,
    /// Where its folder lies, relative to the lake's root.
    pub location: String,
    /// The version that is described.
    pub version: u64,
    /// Its rows.
    pub rows: u64,
    /// Its schema as clients write it.
    pub schema: SchemaRef,
    /// When the version was committed, in milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
    /// `open` or `extended`.
    pub profile: &'static str,
}

impl Service {
    /// The databases of the lake, sorted.
    pub async fn list_databases(&self, _ctx: &RequestContext) -> Result<Vec<DatabaseName>> {
        unimplemented!()
    }
    /// The tables of one namespace, or of the whole database, sorted by id.
    pub async fn list_tables(
        &self,
        _ctx: &RequestContext,
        _namespace: Option<&NamespacePath>,
    ) -> Result<Vec<TableSummary>> {
        unimplemented!()
    }
    /// One table at a version, the latest by default.
    pub async fn describe_table(
        &self,
        _ctx: &RequestContext,
        _table: &TableId,
        _version: Option<u64>,
    ) -> Result<TableDetails> {
        unimplemented!()
    }
}
