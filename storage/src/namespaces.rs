//! Namespaces and databases: made, listed, described and dropped in the catalogue.
//!
//! A namespace exists once it was created, and as long as a table, a view or another namespace lies in it:
//! a table may be made in a namespace that nobody created. The root namespace of a database stands for the
//! database. Everything is one change of one catalogue, so a namespace that is dropped takes all of its
//! tables with it or none.

use std::collections::{BTreeMap, BTreeSet};

use lakebed_core::{DatabaseName, Error, ErrorKind, NamespacePath, Result, Subject, nearest_names};

use crate::catalog::{Entry, State};
use crate::lake::Lake;

/// What is noted about a namespace.
pub type Properties = BTreeMap<String, String>;

const SEPARATOR: char = '$';
/// Bytes of the properties of one namespace.
const PROPERTIES_BYTES_MAX: usize = 64 << 10;

/// What creating a namespace does where it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreateMode {
    /// It is refused.
    #[default]
    Create,
    /// The namespace stays as it is.
    ExistOk,
    /// An empty namespace gets the new properties; one that is not empty is refused.
    Overwrite,
}

impl Lake {
    /// The names of the namespaces directly below one, sorted.
    ///
    /// # Errors
    /// `NotFound` when that one does not exist.
    pub async fn list_namespaces(
        &self,
        database: &DatabaseName,
        parent: &NamespacePath,
    ) -> Result<Vec<String>> {
        let (state, has_catalog) = self.catalog.state(database).await?;
        if !parent.is_root() {
            check_exists(&state, has_catalog, database, parent)?;
        }
        let mut names = BTreeSet::new();
        for path in namespaces_of(&state) {
            if let Some(name) = child_of(path, &parent.to_string()) {
                names.insert(name.to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The properties of a namespace; of the root, those of the database.
    ///
    /// # Errors
    /// `NotFound` naming the nearest namespaces.
    pub async fn namespace_properties(
        &self,
        database: &DatabaseName,
        path: &NamespacePath,
    ) -> Result<Properties> {
        let (state, has_catalog) = self.catalog.state(database).await?;
        check_exists(&state, has_catalog, database, path)?;
        Ok(state.namespaces.get(&path.to_string()).cloned().unwrap_or_default())
    }

    /// Creates a namespace, or the database where the path is the root; returns its properties.
    ///
    /// # Errors
    /// `AlreadyExists` as `mode` says, `NotFound` when the namespace above does not exist, `Conflict` for
    /// an overwrite of one that is not empty.
    pub async fn create_namespace(
        &self,
        database: &DatabaseName,
        path: &NamespacePath,
        mode: CreateMode,
        properties: Properties,
    ) -> Result<Properties> {
        check_properties(&properties)?;
        let (_, has_catalog) = self.catalog.state(database).await?;
        let key = path.to_string();
        if mode == CreateMode::ExistOk
            && let Ok(known) = self.namespace_properties(database, path).await
        {
            return Ok(known);
        }
        let mut kept = properties.clone();
        self.catalog
            .change(database, |state| {
                // Another server may have been first since.
                let exists = exists(state, has_catalog, path);
                match mode {
                    CreateMode::Create if exists => return Err(taken(database, path)),
                    CreateMode::ExistOk if exists => {
                        kept = state.namespaces.get(&key).cloned().unwrap_or_default();
                        return Ok(());
                    }
                    CreateMode::Overwrite if !is_empty(state, path) => {
                        return Err(not_empty(database, path));
                    }
                    _ => {}
                }
                if let Some((_, above)) = path.segments().split_last() {
                    let above = NamespacePath::parse(above)?;
                    if !above.is_root() {
                        check_exists(state, true, database, &above)?;
                    }
                }
                state.namespaces.insert(key.clone(), properties.clone());
                state.is_gone = false;
                Ok(())
            })
            .await?;
        Ok(kept)
    }

    /// Drops a namespace, or the database where the path is the root, with everything in it when
    /// `cascade`; returns the properties that it had. The folders of its tables are deleted as soon as
    /// nobody needs them.
    ///
    /// # Errors
    /// `NotFound` when it does not exist, `Conflict` when it is not empty and not to be emptied.
    pub async fn drop_namespace(
        &self,
        database: &DatabaseName,
        path: &NamespacePath,
        cascade: bool,
    ) -> Result<Properties> {
        let (_, has_catalog) = self.catalog.state(database).await?;
        let key = path.to_string();
        let mut had = Properties::new();
        let mut dropped: Vec<Entry> = Vec::new();
        self.catalog
            .change(database, |state| {
                check_exists(state, has_catalog, database, path)?;
                if !cascade && !is_empty(state, path) {
                    return Err(not_empty(database, path));
                }
                had = state.namespaces.remove(&key).unwrap_or_default();
                state.namespaces.retain(|known, _| !is_below(known, &key));
                dropped = take_tables(state, &key);
                state.declared.retain(|id, _| !is_below(id, &key));
                state.views.retain(|id, _| !is_below(id, &key));
                state.functions.retain(|id, _| !is_below(id, &key));
                state.secrets.retain(|id, _| !is_below(id, &key));
                state.is_gone = path.is_root();
                Ok(())
            })
            .await?;
        for entry in dropped {
            self.finish_drop(database, &entry).await;
        }
        Ok(had)
    }
}

/// Moves the tables below a namespace to those whose folders are to be deleted.
fn take_tables(state: &mut State, key: &str) -> Vec<Entry> {
    let (below, rest) =
        std::mem::take(&mut state.tables).into_iter().partition(|(id, _)| is_below(id, key));
    state.tables = rest;
    let below: BTreeMap<String, Entry> = below;
    let entries: Vec<Entry> = below.into_values().collect();
    state.dropped.extend(entries.iter().map(|entry| (entry.location.clone(), entry.clone())));
    entries
}

/// Every name of a table, a view, a function or a secret, also of a table without data.
fn names_of(state: &State) -> impl Iterator<Item = &String> {
    let tables = state.tables.keys().chain(state.declared.keys());
    tables.chain(state.views.keys()).chain(state.functions.keys()).chain(state.secrets.keys())
}

/// Every namespace of a database as text: those that were created, and those above tables, views,
/// functions and secrets.
fn namespaces_of(state: &State) -> impl Iterator<Item = &str> {
    let above = names_of(state).filter_map(|id| id.rsplit_once(SEPARATOR)).map(|(ns, _)| ns);
    state.namespaces.keys().map(String::as_str).chain(above).filter(|path| !path.is_empty())
}

/// The name of the namespace directly below `parent` in which `path` lies, or which it is.
fn child_of<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    let rest = match parent.is_empty() {
        true => path,
        false => path.strip_prefix(parent)?.strip_prefix(SEPARATOR)?,
    };
    rest.split(SEPARATOR).next().filter(|name| !name.is_empty())
}

/// Whether a table or namespace lies below a namespace.
fn is_below(id: &str, key: &str) -> bool {
    child_of(id, key).is_some()
}

fn exists(state: &State, has_catalog: bool, path: &NamespacePath) -> bool {
    if path.is_root() {
        let was_made = has_catalog || state.namespaces.contains_key("");
        return (was_made || names_of(state).next().is_some()) && !state.is_gone;
    }
    let key = path.to_string();
    state.namespaces.contains_key(&key) || !is_empty(state, path)
}

fn is_empty(state: &State, path: &NamespacePath) -> bool {
    let key = path.to_string();
    let mut below = names_of(state).chain(state.namespaces.keys());
    !below.any(|id| is_below(id, &key))
}

fn check_exists(
    state: &State,
    has_catalog: bool,
    database: &DatabaseName,
    path: &NamespacePath,
) -> Result<()> {
    if exists(state, has_catalog, path) {
        return Ok(());
    }
    let message = match path.is_root() {
        true => format!("database `{database}` does not exist"),
        false => {
            let near = nearest_names(&path.to_string(), namespaces_of(state));
            format!("namespace `{path}` does not exist{near}")
        }
    };
    Err(Error::not_found(message).about(Subject::Namespace))
}

fn taken(database: &DatabaseName, path: &NamespacePath) -> Error {
    let message = format!("{} already exists", shown(database, path));
    Error::new(ErrorKind::AlreadyExists, message).about(Subject::Namespace)
}

fn not_empty(database: &DatabaseName, path: &NamespacePath) -> Error {
    let message = format!("{} is not empty", shown(database, path));
    Error::new(ErrorKind::Conflict, message).about(Subject::Namespace)
}

fn shown(database: &DatabaseName, path: &NamespacePath) -> String {
    match path.is_root() {
        true => format!("database `{database}`"),
        false => format!("namespace `{path}`"),
    }
}

fn check_properties(properties: &Properties) -> Result<()> {
    let bytes: usize = properties.iter().map(|(key, value)| key.len() + value.len()).sum();
    match bytes > PROPERTIES_BYTES_MAX {
        true => Err(Error::invalid(format!(
            "the properties have {bytes} bytes; the limit is {PROPERTIES_BYTES_MAX}"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_lake::{create, id, lake};

    fn path(text: &str) -> NamespacePath {
        let segments: Vec<&str> = text.split('$').filter(|part| !part.is_empty()).collect();
        NamespacePath::parse(&segments).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_namespace_lives_by_itself_and_by_its_tables() {
        let (lake, _folder) = lake().await;
        let database = id("t").database;
        let none = Properties::new();
        let make = async |at: &str, mode| {
            lake.create_namespace(&database, &path(at), mode, none.clone()).await
        };
        make("a", CreateMode::Create).await.unwrap();
        make("a$b", CreateMode::Create).await.unwrap();
        let orphan = make("x$y", CreateMode::Create).await.unwrap_err();
        assert_eq!(orphan.kind(), ErrorKind::NotFound);
        let again = make("a", CreateMode::Create).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        create(&lake, "c$d$t").await;
        let list = async |at: &str| lake.list_namespaces(&database, &path(at)).await;
        assert_eq!(list("").await.unwrap(), ["a", "c"]);
        assert_eq!(list("c").await.unwrap(), ["d"]);
        assert_eq!(list("z").await.unwrap_err().kind(), ErrorKind::NotFound);

        let full = lake.drop_namespace(&database, &path("c"), false).await.unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Conflict);
        lake.drop_namespace(&database, &path("c"), true).await.unwrap();
        assert!(lake.find_table(&id("c$d$t")).await.unwrap().is_none());
        lake.drop_namespace(&database, &path("a$b"), false).await.unwrap();
        assert_eq!(list("").await.unwrap(), ["a"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dropped_database_is_gone_until_something_is_made_in_it() {
        let (lake, _folder) = lake().await;
        let database = DatabaseName::parse("team/cars").unwrap();
        let root = NamespacePath::root();
        let noted = Properties::from([("owner".to_owned(), "me".to_owned())]);
        let mode = CreateMode::Create;
        assert!(lake.namespace_properties(&database, &root).await.is_err());
        lake.create_namespace(&database, &root, mode, noted.clone()).await.unwrap();
        assert_eq!(lake.list_databases().await.unwrap(), std::slice::from_ref(&database));
        assert_eq!(lake.namespace_properties(&database, &root).await.unwrap(), noted);
        assert!(lake.create_namespace(&database, &root, mode, noted.clone()).await.is_err());
        lake.drop_namespace(&database, &root, true).await.unwrap();
        assert!(lake.list_databases().await.unwrap().is_empty());
        lake.create_namespace(&database, &path("a"), mode, noted).await.unwrap();
        assert_eq!(lake.list_databases().await.unwrap(), [database]);
    }
}
