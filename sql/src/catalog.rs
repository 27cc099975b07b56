//! The tables of one statement as DataFusion's catalogue: databases, namespaces, tables.
//!
//! It holds what the statement names, opened before planning. Only a statement that asks for
//! `information_schema` sees the other tables of its database; they are opened one by one when their
//! columns are asked for.
//!
//! `information_schema` is the engine's own, but for `views`, which it fills with tables as well, and for
//! its settings, which say where the server's folders are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::information_schema::InformationSchemaProvider;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result as PlanResult;
use datafusion::logical_expr::TableType;
use lakebed_core::{ErrorKind, TableId};
use lakebed_storage::{At, Extras, Lake, carry};

use crate::engine::INFORMATION_SCHEMA;
use crate::names::schema_name;

/// A catalogue list over fixed tables.
#[derive(Debug, Default)]
pub(crate) struct Catalogs {
    databases: BTreeMap<String, Arc<Catalog>>,
}

#[derive(Debug, Default)]
struct Catalog {
    schemas: BTreeMap<String, Arc<Schema>>,
    information: Option<Arc<InformationSchema>>,
}

#[derive(Default)]
struct Schema {
    opened: HashMap<String, Arc<dyn TableProvider>>,
    listed: BTreeMap<String, TableId>,
    /// Views that are only listed; without their columns where they cannot be planned.
    views: BTreeMap<String, Option<Arc<dyn TableProvider>>>,
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

    /// Makes a database known.
    pub(crate) fn database(&mut self, database: &str) {
        self.databases.entry(database.to_owned()).or_default();
    }

    /// Enters a view that is only listed.
    pub(crate) fn listed_view(&mut self, id: &TableId, table: Option<Arc<dyn TableProvider>>) {
        let schema = self.schema(id.database.as_str(), &schema_name(&id.namespace));
        schema.views.insert(id.name.to_string(), table);
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
            (name, schemas.collect::<BTreeMap<_, _>>())
        });
        let all: Databases = databases.collect();
        let views: Databases =
            all.iter().map(|(name, schemas)| (name.clone(), views_of(schemas))).collect();
        let information = InformationSchema {
            all: InformationSchemaProvider::new(catalogs(all.clone(), None)),
            views: InformationSchemaProvider::new(catalogs(views, None)),
        };
        catalogs(all, Some(Arc::new(information)))
    }
}

type Databases = BTreeMap<String, BTreeMap<String, Arc<Schema>>>;

fn catalogs(
    databases: Databases,
    information: Option<Arc<InformationSchema>>,
) -> Arc<dyn CatalogProviderList> {
    let databases = databases.into_iter().map(|(name, schemas)| {
        (name, Arc::new(Catalog { schemas, information: information.clone() }))
    });
    Arc::new(Catalogs { databases: databases.collect() })
}

/// The schemas with nothing but their listed views.
fn views_of(schemas: &BTreeMap<String, Arc<Schema>>) -> BTreeMap<String, Arc<Schema>> {
    let mut alone = BTreeMap::new();
    for (name, schema) in schemas {
        let views = schema.views.clone();
        alone.insert(name.clone(), Arc::new(Schema { views, ..Schema::default() }));
    }
    alone
}

/// The schema that tells what there is.
#[derive(Debug)]
struct InformationSchema {
    all: InformationSchemaProvider,
    views: InformationSchemaProvider,
}

const VIEWS: &str = "views";
const SETTINGS: &str = "df_settings";

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        let names = self.all.table_names().into_iter();
        names.filter(|name| name != SETTINGS).collect()
    }

    async fn table(&self, name: &str) -> PlanResult<Option<Arc<dyn TableProvider>>> {
        match name.to_ascii_lowercase().as_str() {
            SETTINGS => Ok(None),
            VIEWS => self.views.table(VIEWS).await,
            other => self.all.table(other).await,
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        !name.eq_ignore_ascii_case(SETTINGS) && self.all.table_exist(name)
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
        if name == INFORMATION_SCHEMA {
            return self.information.as_ref().map(|schema| Arc::clone(schema) as _);
        }
        self.schemas.get(name).map(|schema| Arc::clone(schema) as _)
    }
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        let listed: BTreeSet<&String> = self.listed.keys().chain(self.views.keys()).collect();
        match listed.is_empty() {
            true => self.opened.keys().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            false => listed.into_iter().cloned().collect(),
        }
    }

    async fn table(&self, name: &str) -> PlanResult<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.opened.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        if let Some(view) = self.views.get(name) {
            return Ok(view.clone());
        }
        let (Some(id), Some(lake)) = (self.listed.get(name), &self.lake) else { return Ok(None) };
        let opened = async {
            let snapshot = lake.table(id).await?.snapshot(None, &At::Latest).await?;
            snapshot.table_provider(Extras::default(), None).await
        };
        match opened.await {
            Ok((table, _)) => Ok(Some(table)),
            // Dropped since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(carry(&error)),
        }
    }

    async fn table_type(&self, name: &str) -> PlanResult<Option<TableType>> {
        if self.views.contains_key(name) {
            return Ok(Some(TableType::View));
        }
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.opened.contains_key(name)
            || self.listed.contains_key(name)
            || self.views.contains_key(name)
    }
}
