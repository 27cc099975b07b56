//! Which tables are copied, and the catalogues of the target.

use std::collections::{BTreeMap, BTreeSet};

use lakebed_core::{DatabaseName, Error, Result, TableId, nearest_names};

use super::record::BackupRecord;
use super::table::TableMove;
use crate::catalog::{Catalog, State};
use crate::system::SystemStore;
use crate::user_functions::{codes_of, copy_code};

/// What of a lake is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of it.
    Lake,
    /// Some tables, with the blobs they refer to and the receipts of their writes.
    Tables(BTreeSet<TableId>),
}

impl Selection {
    pub(super) fn of(tables: &[TableId]) -> Self {
        match tables {
            [] => Selection::Lake,
            tables => Selection::Tables(tables.iter().cloned().collect()),
        }
    }
}

/// The catalogues of a lake at one moment, without what is not copied.
#[derive(Debug)]
pub(super) struct Catalogs {
    states: BTreeMap<DatabaseName, State>,
    is_whole: bool,
}

impl Catalogs {
    /// Reads them.
    ///
    /// # Errors
    /// `NotFound` naming a table that is not there.
    pub(super) async fn read(system: &SystemStore, selection: &Selection) -> Result<Catalogs> {
        let catalog = Catalog::new(system.clone(), None);
        let mut states = BTreeMap::new();
        for database in catalog.databases().await? {
            let (state, _) = catalog.state(&database).await?;
            let mut state = State::clone(&state);
            // Their folders are about to be deleted, or are no tables, and are not copied.
            state.dropped.clear();
            state.left.clear();
            states.insert(database, state);
        }
        let Selection::Tables(wanted) = selection else {
            return Ok(Catalogs { states, is_whole: true });
        };
        for id in wanted {
            let known = states.get(&id.database).map(|state| &state.tables);
            if !known.is_some_and(|tables| tables.contains_key(&id.text())) {
                let names = known.into_iter().flat_map(BTreeMap::keys).map(String::as_str);
                let near = nearest_names(&id.text(), names);
                return Err(Error::not_found(format!("table `{id}` does not exist{near}")));
            }
        }
        for (database, state) in &mut states {
            // They belong to the lake, not to the tables that they read or fill.
            state.views.clear();
            state.functions.clear();
            state.secrets.clear();
            state.tables.retain(|text, _| {
                wanted.iter().any(|id| &id.database == database && id.text() == *text)
            });
        }
        states.retain(|_, state| !state.tables.is_empty());
        Ok(Catalogs { states, is_whole: false })
    }

    /// The tables, each to the place that it has.
    pub(super) fn tables(&self, before: Option<&BackupRecord>) -> Vec<TableMove> {
        let was_there = |location: &str, uid: &str| {
            before.is_some_and(|before| {
                before.tables.iter().any(|table| table.location == location && table.uid == uid)
            })
        };
        let mut tables = Vec::new();
        for (database, state) in &self.states {
            for (text, entry) in &state.tables {
                let Ok(id) = TableId::parse(database, text) else { continue };
                tables.push(TableMove {
                    id,
                    uid: entry.uid.clone(),
                    location: entry.location.clone(),
                    new_uid: entry.uid.clone(),
                    new_location: entry.location.clone(),
                    is_known: was_there(&entry.location, &entry.uid),
                });
            }
        }
        tables
    }

    /// Copies the code of functions, which lies beside the catalogues and has to be there before them.
    pub(super) async fn copy_code(&self, from: &SystemStore, to: &SystemStore) -> Result<()> {
        for state in self.states.values() {
            for digest in codes_of(state) {
                copy_code(from, to, digest).await?;
            }
        }
        Ok(())
    }

    /// Makes the catalogues of the target say what is there now. Of some tables, the others that are
    /// there stay as they were copied before.
    pub(super) async fn write(&self, system: &SystemStore) -> Result<()> {
        let catalog = Catalog::new(system.clone(), None);
        let mut databases: BTreeSet<DatabaseName> = self.states.keys().cloned().collect();
        databases.extend(catalog.databases().await?);
        for database in databases {
            let (old, _) = catalog.state(&database).await?;
            let mut new = match self.states.get(&database) {
                Some(state) => state.clone(),
                None if self.is_whole => {
                    let mut gone = State::default();
                    gone.is_gone = true;
                    gone
                }
                None => continue,
            };
            if !self.is_whole {
                for (text, entry) in &old.tables {
                    let is_taken = new.tables.values().any(|new| new.location == entry.location);
                    if !is_taken {
                        new.tables.entry(text.clone()).or_insert_with(|| entry.clone());
                    }
                }
                for (text, view) in &old.views {
                    if !new.tables.contains_key(text) {
                        new.views.entry(text.clone()).or_insert_with(|| view.clone());
                    }
                }
                for (text, function) in &old.functions {
                    new.functions.entry(text.clone()).or_insert_with(|| function.clone());
                }
                for (text, secret) in &old.secrets {
                    new.secrets.entry(text.clone()).or_insert_with(|| secret.clone());
                }
                for (path, properties) in &old.namespaces {
                    new.namespaces.entry(path.clone()).or_insert_with(|| properties.clone());
                }
            }
            if *old != new {
                catalog
                    .change(&database, |state| {
                        *state = new.clone();
                        Ok(())
                    })
                    .await?;
            }
        }
        Ok(())
    }
}
