//! Databases, namespaces, tables and views, as catalogue commands of SQL clients list them.

use std::collections::BTreeSet;

use arrow_schema::SchemaRef;
use lakebed_core::{DatabaseName, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_sql::schema_name;
use lakebed_storage::{At, ScanSpec};

use crate::Service;
use crate::authenticate::require;

/// A table or a view as SQL names it.
#[derive(Debug, Clone)]
pub struct TableEntry {
    /// Its database.
    pub database: String,
    /// Its namespace.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it is a view.
    pub is_view: bool,
    /// Its columns as a query shows them, where they were asked for.
    pub columns: Option<SchemaRef>,
    id: TableId,
}

impl Service {
    /// The databases; the caller's own is one of them, also before anything is in it.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn sql_databases(&self, ctx: &RequestContext) -> Result<Vec<String>> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let listed = self.lake.list_databases().await?;
        let mut names: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
        names.insert(ctx.database.to_string());
        Ok(names.into_iter().collect())
    }

    /// Pairs of database and namespace; `database` narrows them down.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn sql_schemas(
        &self,
        ctx: &RequestContext,
        database: Option<&str>,
    ) -> Result<Vec<(String, String)>> {
        let mut schemas = BTreeSet::new();
        for database in self.sql_databases(ctx).await? {
            schemas.insert((database, "public".to_owned()));
        }
        for table in self.sql_tables(ctx, database).await? {
            schemas.insert((table.database, table.schema));
        }
        Ok(schemas.into_iter().collect())
    }

    /// The tables and the views, in the order of their ids; `database` narrows them down.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn sql_tables(
        &self,
        ctx: &RequestContext,
        database: Option<&str>,
    ) -> Result<Vec<TableEntry>> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let databases = match database {
            Some(name) => DatabaseName::parse(name).into_iter().collect(),
            None => self.lake.list_databases().await?,
        };
        let mut tables = Vec::new();
        for database in databases {
            let names = self.lake.list_tables(&database, None).await?;
            let views = self.lake.list_views(&database, None).await?;
            let mut entries: Vec<(TableId, bool)> =
                names.into_iter().map(|(id, _)| (id, false)).collect();
            entries.extend(views.into_iter().map(|(id, _)| (id, true)));
            entries.sort_by_cached_key(|(id, _)| id.text());
            tables.extend(entries.into_iter().map(|(id, is_view)| TableEntry {
                database: database.to_string(),
                schema: schema_name(&id.namespace),
                name: id.name.to_string(),
                is_view,
                columns: None,
                id,
            }));
        }
        Ok(tables)
    }

    /// Whether there is a table of that name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn has_table(&self, ctx: &RequestContext, table: &TableId) -> Result<bool> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        Ok(self.lake.find_table(table).await?.is_some())
    }

    /// Fills in the columns of a table; false when it was dropped meanwhile.
    ///
    /// # Errors
    /// Those of opening it.
    pub async fn fill_columns(&self, ctx: &RequestContext, table: &mut TableEntry) -> Result<bool> {
        require(ctx, Role::Read)?;
        if table.is_view {
            table.columns = self.view_columns(ctx, &table.id).await?;
            return Ok(true);
        }
        let opened = async {
            let snapshot = self.lake.table(&table.id).await?.snapshot(None, &At::Latest).await?;
            snapshot.scan_schema(&ScanSpec::default()).await
        };
        match opened.await {
            Ok(schema) => {
                table.columns = Some(schema);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
