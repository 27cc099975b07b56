//! What there is: databases, tables, one table in detail.
use arrow_schema::{Field, FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use lakebed_core::{DatabaseName, Limits, NamespacePath, RequestContext, Result, Role, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::{OverlaidFragment, Profile};

use crate::Service;
use crate::authenticate::require;

/// Sizes of a version of a table.
pub use lakebed_storage::TableStats;

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
    /// Its rows that are deleted and still take space.
    pub deleted_rows: u64,
    /// Its fragments.
    pub fragments: u64,
    /// Its schema as clients write it.
    pub schema: SchemaRef,
    /// When the version was committed, as precisely as its manifest says.
    pub committed_at: DateTime<Utc>,
    /// Which tools can open the table.
    pub profile: Profile,
    /// The fragments with overlays.
    pub overlaid: Vec<OverlaidFragment>,
}

impl TableDetails {
    /// Whether a table of rows of `sent` would have the columns that this one has, in their order.
    ///
    /// # Errors
    /// `InvalidArgument` for a schema that no table can have.
    pub fn has_columns_of(&self, sent: &Schema, limits: &Limits) -> Result<bool> {
        let sent = lakebed_storage::stored_schema(sent, limits)?;
        let is_blob = |field: &Field| field.extension_type_name() == Some("lance.blob.v2");
        let are_alike = |(one, other): (&FieldRef, &FieldRef)| {
            one.name() == other.name()
                && (one.data_type().equals_datatype(other.data_type())
                    || (is_blob(one) && is_blob(other)))
        };
        let (ours, theirs) = (self.schema.fields(), sent.fields());
        Ok(ours.len() == theirs.len() && ours.iter().zip(theirs).all(are_alike))
    }
}

impl Service {
    /// Whether the lake lies in a bucket and not in a folder of this machine.
    pub fn is_in_bucket(&self) -> bool {
        self.lake.is_in_bucket()
    }

    /// What clients that read files by themselves call the thing at `relative` below the lake's root.
    pub fn uri_of(&self, relative: &str) -> String {
        self.lake.uri_of(relative)
    }

    /// The databases of the lake, sorted.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_databases(&self, ctx: &RequestContext) -> Result<Vec<DatabaseName>> {
        require(ctx, Role::Read)?;
        self.lake.list_databases().await
    }

    /// The tables of one namespace, or of the whole database, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn list_tables(
        &self,
        ctx: &RequestContext,
        namespace: Option<&NamespacePath>,
    ) -> Result<Vec<TableSummary>> {
        require(ctx, Role::Read)?;
        let tables = self.lake.list_tables(&ctx.database, namespace).await?;
        Ok(tables.into_iter().map(|(id, location)| TableSummary { id, location }).collect())
    }

    /// One table at the version, branch, tag or time that `at` names; its other fields are not looked at.
    ///
    /// # Errors
    /// `NotFound` naming table, version, branch or tag.
    pub async fn describe_table(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
    ) -> Result<TableDetails> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        Ok(TableDetails {
            id: table.clone(),
            location: snapshot.table().location().to_owned(),
            version: snapshot.version(),
            rows: snapshot.count_rows().await?,
            deleted_rows: snapshot.deleted_rows(),
            fragments: snapshot.fragments(),
            schema: snapshot.schema(),
            committed_at: snapshot.committed_at(),
            profile: snapshot.profile(),
            overlaid: snapshot.overlaid_fragments(),
        })
    }

    /// Sizes of one version of a table, and its number.
    ///
    /// # Errors
    /// `NotFound` naming table, version, branch or tag.
    pub async fn table_stats(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
    ) -> Result<(TableStats, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        Ok((snapshot.stats().await?, snapshot.version()))
    }
}
