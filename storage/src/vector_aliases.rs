//! Aliases of columns of vectors: a word in the table itself that says which column is meant.
//!
//! ```text
//!   schema metadata   lakebed:vector_alias:default = text_v2
//! ```
//!
//! An alias lies in the metadata of the schema, so that it is one of the things a version fixes: who reads a
//! version sees it as it was, a change of it is one commit, and backups, restores and other tools have it with
//! the table. A search looks it up in the version that it searches and in no other place.
//!
//! What always holds: an alias points to a column of vectors that is there, and no column has its name, for as
//! long as only this server changes the table. An overwrite keeps the aliases whose columns it brings.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use async_recursion::async_recursion as boxed;
use lakebed_core::{Error, ErrorKind, Result, Subject, VectorAlias, nearest_names};
use lance::dataset::transaction::{Operation, UpdateMap, UpdateMapEntry};
use lance_core::datatypes::Schema;

use crate::columns::Staged;
use crate::expressions::unknown;
use crate::search::is_vector;
use crate::snapshot::Snapshot;
use crate::table::Table;

/// Begins the key of an alias in the metadata of a schema; its name follows.
const PREFIX: &str = "lakebed:vector_alias:";
/// Aliases of one table.
const ALIASES_MAX: usize = 100;

/// Whether a key of a schema's metadata is an alias.
pub(crate) fn is_alias_key(key: &str) -> bool {
    key.starts_with(PREFIX)
}

fn aliases_of(schema: &Schema) -> BTreeMap<String, String> {
    let aliases = schema.metadata.iter();
    let aliases = aliases.filter_map(|(key, column)| Some((key.strip_prefix(PREFIX)?, column)));
    aliases.map(|(alias, column)| (alias.to_owned(), column.clone())).collect()
}

/// Refuses a new column with the name of an alias: searches that name the alias would go to it.
pub(crate) fn check_no_alias(schema: &Schema, name: &str) -> Result<()> {
    match schema.metadata.get(&format!("{PREFIX}{name}")) {
        None => Ok(()),
        Some(column) => Err(Error::invalid(format!(
            "`{name}` is the vector alias of column `{column}`; a column of that name would hide it"
        ))),
    }
}

/// Refuses to drop a column that an alias points to.
pub(crate) fn check_not_aliased(schema: &Schema, dropped: &[&str]) -> Result<()> {
    for (alias, column) in aliases_of(schema) {
        let is_within = |name: &&&str| {
            column.strip_prefix(**name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(name) = dropped.iter().find(is_within) {
            return Err(Error::invalid(format!(
                "column `{name}` is what the vector alias `{alias}` points to; set the alias to another \
                 column or drop it first"
            )));
        }
    }
    Ok(())
}

/// Has the aliases of a schema point to the columns that they pointed to before some got other names.
pub(crate) fn follow(before: &Schema, after: &mut Schema) {
    for (alias, column) in aliases_of(before) {
        let path = before.field(&column).and_then(|field| after.field_path(field.id).ok());
        if let Some(path) = path {
            after.metadata.insert(format!("{PREFIX}{alias}"), path);
        }
    }
}

/// Gives the rows that replace all others the aliases of the table whose columns they bring.
pub(crate) fn keep(known: &Schema, operation: &mut Operation) {
    let Operation::Overwrite { schema, .. } = operation else { return };
    schema.metadata.retain(|key, _| !is_alias_key(key));
    for (alias, column) in aliases_of(known) {
        let is_there = schema.field(&column).is_some_and(|field| is_vector(&field.data_type()));
        if is_there && schema.field(&alias).is_none() {
            schema.metadata.insert(format!("{PREFIX}{alias}"), column);
        }
    }
}

impl Snapshot {
    /// The aliases of columns of vectors, with what they point to.
    pub fn vector_aliases(&self) -> BTreeMap<String, String> {
        aliases_of(self.dataset.schema())
    }
}

impl Table {
    /// Has an alias point to a column of vectors; returns the column that it pointed to before, and the
    /// version from which on it points to the new one.
    ///
    /// # Errors
    /// `NotFound` for a column that does not exist, `InvalidArgument` for one without vectors or an alias that
    /// is a column's name, `Conflict` when the alias does not point to `expected`.
    #[boxed]
    pub async fn set_vector_alias(
        &self,
        branch: Option<&str>,
        alias: &VectorAlias,
        column: &str,
        expected: Option<&str>,
    ) -> Result<(Option<String>, u64)> {
        self.change_vector_alias(branch, alias, Some(column), expected).await
    }

    /// Takes an alias away; returns the column that it pointed to, and the version without it.
    ///
    /// # Errors
    /// `NotFound` naming the nearest aliases, `Conflict` when it does not point to `expected`.
    #[boxed]
    pub async fn drop_vector_alias(
        &self,
        branch: Option<&str>,
        alias: &VectorAlias,
        expected: Option<&str>,
    ) -> Result<(Option<String>, u64)> {
        self.change_vector_alias(branch, alias, None, expected).await
    }

    async fn change_vector_alias(
        &self,
        branch: Option<&str>,
        alias: &VectorAlias,
        column: Option<&str>,
        expected: Option<&str>,
    ) -> Result<(Option<String>, u64)> {
        let branch = self.branch(branch).await?;
        let before: Mutex<Option<String>> = Mutex::default();
        let before = &before;
        let committed = self
            .change_columns(&branch, |latest| async move {
                let schema = latest.schema();
                let aliases = aliases_of(schema);
                let known = aliases.get(alias.as_str());
                if let Some(column) = column {
                    check_target(schema, alias, column)?;
                    if known.is_none() && aliases.len() >= ALIASES_MAX {
                        let message = format!("a table has at most {ALIASES_MAX} vector aliases");
                        return Err(Error::invalid(message));
                    }
                }
                check_expected(alias, known.map(String::as_str), expected)?;
                if column.is_none() && known.is_none() {
                    return Err(unknown_alias(alias.as_str(), &aliases));
                }
                *before.lock().unwrap_or_else(PoisonError::into_inner) = known.cloned();
                let entry = UpdateMapEntry {
                    key: format!("{PREFIX}{alias}"),
                    value: column.map(str::to_owned),
                };
                let update = UpdateMap { update_entries: vec![entry], replace: false };
                Ok(Staged::metadata(Operation::UpdateConfig {
                    config_updates: None,
                    table_metadata_updates: None,
                    schema_metadata_updates: Some(update),
                    field_metadata_updates: HashMap::new(),
                }))
            })
            .await?;
        let before = before.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok((before, committed.version().version))
    }
}

fn check_target(schema: &Schema, alias: &VectorAlias, column: &str) -> Result<()> {
    let field = schema.field(column).ok_or_else(|| unknown(schema, column))?;
    if !is_vector(&field.data_type()) {
        let of = field.data_type();
        return Err(Error::invalid(format!("column `{column}` of type {of} holds no vectors")));
    }
    match schema.field(alias.as_str()) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!(
            "`{alias}` is a column of the table, and an alias needs a name that no column has"
        ))),
    }
}

fn check_expected(alias: &VectorAlias, known: Option<&str>, expected: Option<&str>) -> Result<()> {
    match (known, expected) {
        (_, None) => Ok(()),
        (Some(known), Some(expected)) if known == expected => Ok(()),
        (Some(known), Some(expected)) => Err(Error::new(
            ErrorKind::Conflict,
            format!("vector alias `{alias}` points to `{known}` and not to `{expected}`"),
        )),
        (None, Some(expected)) => Err(Error::new(
            ErrorKind::Conflict,
            format!("there is no vector alias `{alias}`, which was to point to `{expected}`"),
        )),
    }
}

fn unknown_alias(wanted: &str, known: &BTreeMap<String, String>) -> Error {
    let near = nearest_names(wanted, known.keys().map(String::as_str));
    Error::not_found(format!("vector alias `{wanted}` does not exist{near}")).about(Subject::Column)
}
