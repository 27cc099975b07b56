//! Materialized views: tables whose rows are those of a query over one other table, as of a refresh.
//!
//! ```text
//!   source, version 7 ──► query ──► rows ─┐
//!   source, changes 7 to 9 ──► query ─────┴─► one version of the view ─► it says: query, source, version 9
//! ```
//!
//! A materialized view is a table like any other: every reader of Lance opens it, indexes are built on it.
//! What makes it a view is an entry of the table's configuration. It is replaced in the very commit that
//! changes the rows, so rows and the version of the source that they show never come apart, wherever a
//! refresh is cut off. What the query means is for the engine of SQL.
//!
//! What always holds: each row of a view says in [`SOURCE_ROW_ID`] which row of the source it was made of;
//! nobody but a refresh changes rows or columns of a view. A clone or a branch of one is a plain table.

mod refresh;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_recursion::async_recursion as boxed;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{DatabaseName, Error, ErrorKind, NamespacePath, Result, TableId};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance_table::format::{Manifest, pb};
use serde::{Deserialize, Serialize};

use crate::catalog::is_in;
use crate::lake::Lake;
use crate::schema::schema_digest;
use crate::snapshot::{At, Snapshot};
use crate::table::Branch;
use crate::write::WriteOptions;

pub use refresh::Refreshed;

/// The column of a view that says which row of the source a row was made of.
pub const SOURCE_ROW_ID: &str = "__source_row_id";
/// Where a table's configuration says that it is a view; also the property of the transaction that says so.
const KEY: &str = "lakebed.materialized_view";
/// The newest form of a definition that is understood.
const FORMAT: u32 = 1;
/// Tables that are looked at at a time.
const OPENED_AT_ONCE: usize = 16;
/// Metadata of a field that is about the table it is in.
const OWN_METADATA: &str = "lance-schema:";

/// What a materialized view shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaterializedView {
    /// The form of this record.
    pub format: u32,
    /// The query, every column by its name.
    pub query: String,
    /// The database of the source.
    pub database: String,
    /// The source, namespaces joined with `$`, by the name that it had at the last refresh.
    pub source: String,
    /// Tells the source from a later table of its name.
    pub source_uid: String,
    /// The columns of the source that the query reads.
    pub source_columns: Vec<String>,
    /// The columns of the view: their names and the expressions that give their values.
    pub projections: Vec<(String, String)>,
    /// Which rows of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// In which order they are counted, of a view with a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_by: Option<String>,
    /// How many of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The version of the source that the rows show; nothing before the first refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_version: Option<u64>,
    /// When that was committed, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshed_at_ms: Option<i64>,
}

impl MaterializedView {
    /// The format of definitions that this server writes.
    pub const FORMAT: u32 = FORMAT;

    /// The definition that a version has; nothing where the table is no view.
    pub(crate) fn of(dataset: &Dataset) -> Result<Option<MaterializedView>> {
        let Some(text) = dataset.manifest().config.get(KEY) else { return Ok(None) };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let corrupt = |error: serde_json::Error| {
            let message = "the definition of the materialized view cannot be read";
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        };
        let version: Version = serde_json::from_str(text).map_err(corrupt)?;
        if version.format > FORMAT {
            return Err(Error::new(
                ErrorKind::NotImplemented,
                format!(
                    "the materialized view has format {}; this server reads up to {FORMAT}",
                    version.format
                ),
            ));
        }
        serde_json::from_str(text).map(Some).map_err(corrupt)
    }

    fn to_text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("the definition of a view").with_source(error))
    }

    /// What a transaction carries that leaves the table with this definition.
    fn property(&self) -> Result<HashMap<String, String>> {
        Ok(HashMap::from([(KEY.to_owned(), self.to_text()?)]))
    }
}

/// Notes in a manifest the definition that its transaction carries. What is made as a copy of a view is a
/// table of its own.
pub(crate) fn note_view(
    manifest: &mut Manifest,
    transaction: Option<&lance_table::format::Transaction>,
) {
    let Some(transaction) = transaction.map(|transaction| &transaction.inner) else { return };
    if let Some(text) = transaction.transaction_properties.get(KEY) {
        manifest.config.insert(KEY.to_owned(), text.clone());
        manifest.writer_feature_flags |= lance_table::feature_flags::FLAG_TABLE_CONFIG;
    }
    if matches!(transaction.operation, Some(pb::transaction::Operation::Clone(_))) {
        manifest.config.remove(KEY);
    }
}

/// Refuses a transaction that would change the rows or the columns of a view and is no refresh.
pub(crate) fn check_commit(dataset: &Dataset, transaction: &Transaction) -> Result<()> {
    let properties = transaction.transaction_properties.as_deref();
    let is_refresh = properties.is_some_and(|properties| properties.contains_key(KEY));
    match &transaction.operation {
        // Where bytes lie, and what is said about them.
        Operation::Rewrite { .. }
        | Operation::CreateIndex { .. }
        | Operation::ReserveFragments { .. }
        | Operation::UpdateBases { .. }
        | Operation::UpdateConfig { .. } => Ok(()),
        _ if is_refresh => Ok(()),
        _ => refuse_view(dataset),
    }
}

fn refuse_view(dataset: &Dataset) -> Result<()> {
    match dataset.manifest().config.contains_key(KEY) {
        false => Ok(()),
        true => Err(Error::invalid(
            "the table is a materialized view; only a refresh changes its rows and columns",
        )),
    }
}

impl Branch {
    /// Refuses to change a view, before work is done that its commit would refuse.
    pub(crate) async fn check_no_view(&self) -> Result<()> {
        refuse_view(&*self.current().await)
    }
}

impl Snapshot {
    /// The definition that the version has; nothing where the table is no materialized view.
    ///
    /// # Errors
    /// `Corrupt` for a definition that cannot be read, `NotImplemented` for one of a later release.
    pub fn materialized_view(&self) -> Result<Option<MaterializedView>> {
        MaterializedView::of(&self.dataset)
    }
}

impl Lake {
    /// Makes a materialized view without rows; `columns` are those of its query.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `InvalidArgument` for columns that cannot be stored.
    #[boxed]
    pub async fn create_materialized_view(
        &self,
        id: &TableId,
        columns: &Schema,
        view: &MaterializedView,
    ) -> Result<()> {
        let schema = view_schema(columns);
        let options = WriteOptions {
            write_id: None,
            mode: "create:".to_owned(),
            schema_digest: schema_digest(&schema),
        };
        let nothing = futures::stream::empty().boxed();
        self.create_noted(id, schema, nothing, options, view.property()?).await.map(|_| ())
    }

    /// The materialized views of a namespace, or of the whole database, sorted by id. A table is looked at
    /// once to see whether it is one: it neither becomes one nor ends being one.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_materialized_views(
        &self,
        database: &DatabaseName,
        namespace: Option<&NamespacePath>,
    ) -> Result<Vec<(TableId, MaterializedView)>> {
        let tables = self.catalog.list(database).await?.into_iter();
        let tables = tables.filter(|(id, entry)| {
            namespace.is_none_or(|namespace| is_in(id, namespace))
                && !self.plain_tables().contains(&entry.uid)
        });
        let views = futures::stream::iter(tables)
            .map(|(id, entry)| async move {
                let table = self.handle(entry);
                let view = match table.snapshot(None, &At::Latest).await {
                    Ok(snapshot) => snapshot.materialized_view()?,
                    // Dropped since it was listed, or no data set any more.
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                };
                if view.is_none() {
                    self.plain_tables().insert(table.uid().to_owned());
                }
                Ok(view.map(|view| (id, view)))
            })
            .buffered(OPENED_AT_ONCE);
        let views: Vec<Option<(TableId, MaterializedView)>> = views.try_collect().await?;
        Ok(views.into_iter().flatten().collect())
    }

    fn plain_tables(&self) -> MutexGuard<'_, HashSet<String>> {
        self.plain_tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The columns of a view: those of its query, which all allow null, and the id of the source's row.
fn view_schema(columns: &Schema) -> SchemaRef {
    let plain = |field: &FieldRef| {
        let metadata = field.metadata().iter().filter(|(key, _)| !key.starts_with(OWN_METADATA));
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Arc::new(Field::clone(field).with_nullable(true).with_metadata(metadata))
    };
    let of_query = columns.fields().iter().filter(|field| field.name() != SOURCE_ROW_ID);
    let own = Arc::new(Field::new(SOURCE_ROW_ID, DataType::UInt64, false));
    let fields: Vec<FieldRef> = of_query.map(plain).chain([own]).collect();
    Arc::new(Schema::new(fields))
}
