//! From names in a statement to tables of the lake.
//!
//! `t`, `namespace.t` and `database.namespace.t`; the root namespace is `public`, nested ones are joined
//! with `$`. Names are taken as they are stored: upper and lower case are different.

use datafusion::sql::TableReference;
use datafusion::sql::sqlparser::ast::ObjectName;
use lakebed_core::{DatabaseName, Error, NamespacePath, Result, TableId};
use serde::{Deserialize, Serialize};

/// What the root namespace is called in SQL.
const ROOT: &str = "public";

/// What names without a database or a namespace are looked for in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    database: String,
    schema: String,
}

impl Scope {
    /// The scope of a caller; `namespace` as SQL writes it, the root namespace when absent.
    ///
    /// # Errors
    /// `InvalidArgument` for a namespace that breaks the rules.
    pub fn new(database: &DatabaseName, namespace: Option<&str>) -> Result<Scope> {
        let schema = namespace.filter(|text| !text.is_empty()).unwrap_or(ROOT);
        namespace_of(schema)?;
        Ok(Scope { database: database.to_string(), schema: schema.to_owned() })
    }

    /// The database of names that say none.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The namespace of names that say none, as SQL writes it.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The namespace of names that say none.
    ///
    /// # Errors
    /// `InvalidArgument` never: it was checked when the scope was made.
    pub fn namespace(&self) -> Result<NamespacePath> {
        namespace_of(&self.schema)
    }

    /// The table that a reference names; its last part without a version.
    pub(crate) fn table(&self, database: &str, schema: &str, table: &str) -> Result<TableId> {
        let database = DatabaseName::parse(database)?;
        let namespace = namespace_of(schema)?;
        let mut segments: Vec<&str> = namespace.segments().iter().map(String::as_str).collect();
        segments.push(table);
        TableId::from_segments(&database, &segments)
    }

    /// The table that a name of the syntax tree names.
    pub(crate) fn table_of(&self, name: &ObjectName) -> Result<TableId> {
        let parts = parts_of(name)?;
        match parts.as_slice() {
            [table] => self.table(&self.database, &self.schema, table),
            [schema, table] => self.table(&self.database, schema, table),
            [database, schema, table] => self.table(database, schema, table),
            _ => Err(Error::invalid(format!(
                "name `{name}` has {} parts; a table has at most database, namespace and name",
                parts.len()
            ))),
        }
    }

    /// Database, schema and table of a reference, defaults filled in.
    pub(crate) fn resolve<'a>(&'a self, name: &'a TableReference) -> (&'a str, &'a str, &'a str) {
        (
            name.catalog().unwrap_or(&self.database),
            name.schema().unwrap_or(&self.schema),
            name.table(),
        )
    }
}

impl Scope {
    /// The table that an argument of a search names: like everywhere outside SQL, namespaces joined
    /// with `$`; without one it is of the scope's own namespace.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules.
    pub(crate) fn searched(&self, name: &str) -> Result<TableId> {
        match name.contains('$') {
            true => TableId::parse(&DatabaseName::parse(&self.database)?, name),
            false => self.table(&self.database, &self.schema, name),
        }
    }
}

/// The parts of a name.
pub(crate) fn parts_of(name: &ObjectName) -> Result<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part.as_ident() {
            Some(ident) => Ok(ident.value.clone()),
            None => Err(Error::invalid(format!("`{name}` is no name of a table"))),
        })
        .collect()
}

/// A namespace from how SQL writes it.
///
/// # Errors
/// `InvalidArgument` for a segment that breaks the rules.
fn namespace_of(schema: &str) -> Result<NamespacePath> {
    if schema == ROOT {
        return Ok(NamespacePath::root());
    }
    let segments: Vec<&str> = schema.split('$').collect();
    NamespacePath::parse(&segments)
}

/// A namespace as SQL writes it.
pub fn schema_name(namespace: &NamespacePath) -> String {
    match namespace.is_root() {
        true => ROOT.to_owned(),
        false => namespace.to_string(),
    }
}
