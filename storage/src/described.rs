//! What there is in a lake and what is said of it, for the search over the catalogue.
//!
//! Tables are read past the handles that requests share: those stay open and are maintained, and whoever looks
//! at every table once shall not have all of them open.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use async_recursion::async_recursion as boxed;
use lakebed_core::{DatabaseName, Error, ErrorKind, Result};

use crate::catalog::State;
use crate::lake::Lake;
use crate::materialized::MaterializedView;
use crate::tag::listed_tags;
use crate::user_functions::UserFunction;
use crate::views::View;

/// Columns of a table that are described.
const COLUMNS_MAX: usize = 2_000;
/// Properties of a table that are told.
const PROPERTIES_MAX: usize = 200;

/// The catalogue of a database at one moment.
#[derive(Debug, Clone)]
pub struct CatalogueState {
    number: u64,
    state: Arc<State>,
}

impl CatalogueState {
    /// Rises with each change of the catalogue.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The tables by their text ids, each with its uid and its folder.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let tables = self.state.tables.iter();
        tables.map(|(name, entry)| (name.as_str(), entry.uid.as_str(), entry.location.as_str()))
    }

    /// The namespaces that were made, with their properties; that of the empty name is the database's own.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        self.state.namespaces.iter().map(|(name, properties)| (name.as_str(), properties))
    }

    /// The views by their text ids.
    pub fn views(&self) -> impl Iterator<Item = (&str, &View)> {
        self.state.views.iter().map(|(name, view)| (name.as_str(), view))
    }

    /// The functions by their text ids.
    pub fn functions(&self) -> impl Iterator<Item = (&str, &UserFunction)> {
        self.state.functions.iter().map(|(name, function)| (name.as_str(), function))
    }
}

/// A column as the newest version of a table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedColumn {
    /// Its whole path.
    pub path: String,
    /// Its type.
    pub data_type: String,
    /// What is noted about it.
    pub metadata: BTreeMap<String, String>,
}

/// What is said of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DescribedTable {
    /// Its columns, nested ones included.
    pub columns: Vec<DescribedColumn>,
    /// Its tags, with the versions that they name.
    pub tags: Vec<(String, u64)>,
    /// What is noted about it: of its schema, of the table, of its settings, earlier ones first.
    pub properties: Vec<(String, String)>,
    /// Whether it is a materialized view.
    pub is_materialized: bool,
}

impl Lake {
    /// The catalogue of a database; asked of the store with `anew`, as far as it is trusted without.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn catalogue(&self, database: &DatabaseName, anew: bool) -> Result<CatalogueState> {
        let (number, state) = self.catalog.numbered_state(database, anew).await?;
        Ok(CatalogueState { number, state })
    }

    /// What is said of the table at a location; nothing where there is none any more.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` when it cannot be read.
    #[boxed]
    pub async fn describe_location(&self, location: &str) -> Result<Option<DescribedTable>> {
        let dataset = match self.shared.open_dataset(location, None).await {
            Ok(dataset) => dataset,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let schema = dataset.schema();
        let columns = schema.fields_pre_order().take(COLUMNS_MAX).filter_map(|field| {
            let path = schema.field_path(field.id).ok()?;
            let metadata = field.metadata.clone().into_iter().collect();
            Some(DescribedColumn { path, data_type: field.data_type().to_string(), metadata })
        });
        let columns = columns.collect();
        let sorted = |map: &std::collections::HashMap<String, String>| -> BTreeMap<_, _> {
            map.clone().into_iter().collect()
        };
        let manifest = dataset.manifest();
        let properties = sorted(&schema.metadata)
            .into_iter()
            .chain(sorted(&manifest.table_metadata))
            .chain(sorted(&manifest.config))
            .take(PROPERTIES_MAX)
            .collect();
        let is_materialized = MaterializedView::of(&dataset).is_ok_and(|view| view.is_some());
        let tags = listed_tags(&dataset).await?;
        let tags = tags.into_iter().map(|(name, contents)| (name, contents.version)).collect();
        Ok(Some(DescribedTable { columns, tags, properties, is_materialized }))
    }

    /// Numbers that change when a version or a tag of the table at each location does, by whatever tool; nothing
    /// for a lake in a bucket, where looking costs.
    ///
    /// # Errors
    /// `Internal` when the look was cut off.
    #[boxed]
    pub async fn stamps(&self, locations: Vec<String>) -> Result<Option<Vec<u64>>> {
        let Some(root) = self.local_folder().map(std::path::Path::to_path_buf) else {
            return Ok(None);
        };
        let looked = tokio::task::spawn_blocking(move || {
            let stamp = |location: &String| {
                let table = root.join(location);
                let mut hasher = DefaultHasher::new();
                for folder in ["_versions", "_refs/tags"] {
                    changed_at(&table.join(folder)).hash(&mut hasher);
                }
                hasher.finish()
            };
            locations.iter().map(stamp).collect()
        });
        let stamps = looked.await;
        stamps.map(Some).map_err(|error| Error::internal("look at tables").with_source(error))
    }
}

fn changed_at(folder: &std::path::Path) -> Option<SystemTime> {
    folder.metadata().and_then(|metadata| metadata.modified()).ok()
}
