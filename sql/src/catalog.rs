//! The tables of one statement as DataFusion's catalogue: databases, namespaces, tables.
//!
//! It holds what the statement names, opened before planning. Only a statement that asks for
//! `information_schema` sees the other tables of its database; they are opened one by one when their
//! columns are asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result as PlanResult;
use datafusion::logical_expr::TableType;
use lakebed_core::{ErrorKind, TableId};
use lakebed_storage::{At, Extras, Lake, carry};

use crate::names::schema_name;

/// A catalogue list over fixed tables.
#[derive(Debug, Default)]
pub(crate) struct Catalogs {
    databases: BTreeMap<String, Arc<Catalog>>,
}

#[derive(Debug, Default)]
struct Catalog {
    schemas: BTreeMap<String, Arc<Schema>>,
}

#[derive(Default)]
struct Schema {
    opened: HashMap<String, Arc<dyn TableProvider>>,
    listed: BTreeMap<String, TableId>,
    lake: Option<Arc<Lake>>,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("tables", &self.table_names()).finish()
    }
}

/// Gathers a catalogue.
#[derive(Default)]
pub(crate) struct CatalogBuilder {
    databases: BTreeMap<String, BTreeMap<String, Schema>>,
}

impl CatalogBuilder {
    /// A catalogue that knows the caller's own database and namespace.
    pub(crate) fn with(database: &str, schema: &str) -> CatalogBuilder {
        let mut builder = CatalogBuilder::default();
        builder.schema(database, schema);
        builder
    }

    /// Enters an opened table under the name that the statement has for it.
    pub(crate) fn opened(
        &mut self,
        (database, schema, name): (&str, &str, &str),
        table: Arc<dyn TableProvider>,
    ) {
        self.schema(database, schema).opened.insert(name.to_owned(), table);
    }

    /// Enters a table that is only listed.
    pub(crate) fn listed(&mut self, id: TableId, lake: &Arc<Lake>) {
        let name = schema_name(&id.namespace);
        let schema = self.schema(id.database.as_str(), &name);
        schema.lake = Some(Arc::clone(lake));
        schema.listed.insert(id.name.to_string(), id);
    }

    fn schema(&mut self, database: &str, schema: &str) -> &mut Schema {
        let schemas = self.databases.entry(database.to_owned()).or_default();
        schemas.entry(schema.to_owned()).or_default()
    }

    pub(crate) fn build(self) -> Arc<dyn CatalogProviderList> {
        let databases = self.databases.into_iter().map(|(name, schemas)| {
            let schemas = schemas.into_iter().map(|(name, schema)| (name, Arc::new(schema)));
            (name, Arc::new(Catalog { schemas: schemas.collect() }))
        });
        Arc::new(Catalogs { databases: databases.collect() })
    }
}

impl CatalogProviderList for Catalogs {
    fn register_catalog(
        &self,
        _: String,
        _: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.databases.keys().cloned().collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        self.databases.get(name).map(|catalog| Arc::clone(catalog) as _)
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.get(name).map(|schema| Arc::clone(schema) as _)
    }
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        match self.listed.is_empty() {
            true => self.opened.keys().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            false => self.listed.keys().cloned().collect(),
        }
    }

    async fn table(&self, name: &str) -> PlanResult<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.opened.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        let (Some(id), Some(lake)) = (self.listed.get(name), &self.lake) else { return Ok(None) };
        let opened = async {
            let snapshot = lake.table(id).await?.snapshot(None, &At::Latest).await?;
            snapshot.table_provider(Extras::default()).await
        };
        match opened.await {
            Ok((table, _)) => Ok(Some(table)),
            // Dropped since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(carry(&error)),
        }
    }

    async fn table_type(&self, name: &str) -> PlanResult<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.opened.contains_key(name) || self.listed.contains_key(name)
    }
}
