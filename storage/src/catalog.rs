//! Which tables there are: one catalogue per database.
//!
//! A catalogue is a numbered sequence of small JSON files, `_lakebed/catalog/<database>/<number>.json`,
//! each the whole truth. A change writes the next number where nothing is (put-if-absent), so exactly
//! one of two writers wins and every change, a rename included, is one atomic step. The table's folder
//! is found by its name (`<database>/<namespace>/…/<table>.lance`) unless that place was taken when it
//! was made; then it gets `~2`, `~3`, …, which no name can contain. A rename changes only this file.
//!
//! A dropped table moves to `dropped` first and its folder is deleted afterwards, so a crash between
//! the two leaves no half table that anyone can see.
//!
//! A folder with a lance dataset that stands at its canonical place and is in no catalogue is adopted
//! when its name is first asked for. This is what completes a create whose server died after the first
//! version was committed. The same with the place of a name that was declared, where another tool writes the
//! first version. A table that was deregistered keeps its folder and is not adopted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lakebed_core::{DatabaseName, Error, ErrorKind, NamespacePath, Result, TableId};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::secrets::Secret;
use crate::system::SystemStore;
use crate::user_functions::UserFunction;
use crate::views::View;

const KEPT_STATES: u64 = 8;
/// The newest format; a state says the oldest that can hold it.
const FORMAT: u32 = 6;
const FORMAT_WITHOUT_SECRETS: u32 = 5;
const FORMAT_WITHOUT_FUNCTIONS: u32 = 4;
const FORMAT_WITHOUT_VIEWS: u32 = 3;
const FORMAT_WITHOUT_DECLARED: u32 = 2;
const FORMAT_WITHOUT_NAMESPACES: u32 = 1;

/// Where a table lies and which incarnation it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The folder, relative to the lake's root.
    pub(crate) location: String,
    /// Differs between a table and a later one of the same name.
    pub(crate) uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    format: u32,
    pub(crate) tables: BTreeMap<String, Entry>,
    /// Locations of dropped tables whose folders may still be there.
    pub(crate) dropped: BTreeMap<String, Entry>,
    /// Namespaces that were created, and their properties; the empty path is the database itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Where the first versions of tables are to lie that were declared and have none yet, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) declared: BTreeMap<String, String>,
    /// What was deregistered, by its location. Its folder stays and is no table until it is registered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) left: BTreeMap<String, Entry>,
    /// Views, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) views: BTreeMap<String, View>,
    /// Functions that users registered, by their names, which are apart from those of tables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) functions: BTreeMap<String, UserFunction>,
    /// Secrets, by their names, which are apart from those of tables and of functions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Whether the database was dropped; a table or namespace that is made in it brings it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_gone: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            format: FORMAT_WITHOUT_NAMESPACES,
            tables: BTreeMap::new(),
            dropped: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            declared: BTreeMap::new(),
            left: BTreeMap::new(),
            views: BTreeMap::new(),
            functions: BTreeMap::new(),
            secrets: BTreeMap::new(),
            is_gone: false,
        }
    }
}

impl State {
    /// The oldest format that can hold it.
    fn oldest_format(&self) -> u32 {
        if !self.secrets.is_empty() {
            return FORMAT;
        }
        if !self.functions.is_empty() {
            return FORMAT_WITHOUT_SECRETS;
        }
        if !self.views.is_empty() {
            return FORMAT_WITHOUT_FUNCTIONS;
        }
        match (self.declared.is_empty() && self.left.is_empty(), self.namespaces.is_empty()) {
            (false, _) => FORMAT_WITHOUT_VIEWS,
            (true, true) if !self.is_gone => FORMAT_WITHOUT_NAMESPACES,
            (true, _) => FORMAT_WITHOUT_DECLARED,
        }
    }

    /// Whether a location belongs to a table, or to one that was dropped or deregistered.
    fn is_taken(&self, location: &str) -> bool {
        self.dropped.contains_key(location)
            || self.left.contains_key(location)
            || self.tables.values().any(|entry| entry.location == location)
    }

    /// Refuses a name that belongs to a table or a view, or was declared.
    pub(crate) fn check_free(&self, id: &TableId) -> Result<()> {
        let text = id.text();
        if self.views.contains_key(&text) {
            let message = format!("view `{id}` already exists");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        match self.tables.contains_key(&text) || self.declared.contains_key(&text) {
            true => {
                Err(Error::new(ErrorKind::AlreadyExists, format!("table `{id}` already exists")))
            }
            false => Ok(()),
        }
    }
}

#[derive(Debug, Clone)]
struct Loaded {
    number: u64,
    state: Arc<State>,
    at: Instant,
}

/// The catalogues of one lake.
#[derive(Debug)]
pub(crate) struct Catalog {
    system: SystemStore,
    /// How long a loaded catalogue is trusted: for ever in a local lake, which one server holds.
    trusted_for: Option<Duration>,
    loaded: Mutex<HashMap<DatabaseName, Loaded>>,
}

fn folder_of(database: &DatabaseName) -> String {
    // `$` cannot occur in a name, so two databases never share a folder.
    format!("catalog/{}", database.as_str().replace('/', "$"))
}

impl Catalog {
    pub(crate) fn new(system: SystemStore, trusted_for: Option<Duration>) -> Self {
        Catalog { system, trusted_for, loaded: Mutex::new(HashMap::new()) }
    }

    /// The entry of a table, or nothing.
    pub(crate) async fn get(&self, id: &TableId) -> Result<Option<Entry>> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, &id.database, false).await?;
        let known = current.state.tables.get(&id.text()).cloned();
        if known.is_some() || self.trusted_for.is_none() {
            return Ok(known);
        }
        // Another server may have made it since.
        let current = self.load(&mut loaded, &id.database, true).await?;
        Ok(current.state.tables.get(&id.text()).cloned())
    }

    /// The entry of a table by its uid, also of a dropped one whose folder may still be there.
    pub(crate) async fn by_uid(&self, database: &DatabaseName, uid: &str) -> Result<Option<Entry>> {
        let mut loaded = self.loaded.lock().await;
        let state = self.load(&mut loaded, database, false).await?.state;
        let mut entries = state.tables.values().chain(state.dropped.values());
        Ok(entries.find(|entry| entry.uid == uid).cloned())
    }

    /// The name that the table of a uid has now; nothing for one that was dropped.
    pub(crate) async fn name_of(
        &self,
        database: &DatabaseName,
        uid: &str,
    ) -> Result<Option<TableId>> {
        let mut loaded = self.loaded.lock().await;
        let state = self.load(&mut loaded, database, false).await?.state;
        let found = state.tables.iter().find(|(_, entry)| entry.uid == uid);
        found.map(|(name, _)| TableId::parse(database, name)).transpose()
    }

    /// The table that lies at a location, in whatever database; dropped ones are none.
    pub(crate) async fn by_location(&self, location: &str) -> Result<Option<Entry>> {
        for database in self.databases().await? {
            let mut loaded = self.loaded.lock().await;
            let state = self.load(&mut loaded, &database, false).await?.state;
            if let Some(entry) = state.tables.values().find(|entry| entry.location == location) {
                return Ok(Some(entry.clone()));
            }
        }
        Ok(None)
    }

    /// Whether a location belongs to a table, or to one that was dropped or deregistered.
    pub(crate) async fn is_taken(&self, database: &DatabaseName, location: &str) -> Result<bool> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, database, false).await?;
        Ok(current.state.is_taken(location))
    }

    /// Whether a location belongs to a table of any database, dropped and deregistered ones included. The
    /// folders of database `team/cars` and of namespace `cars` in database `team` are the same.
    pub(crate) async fn is_taken_anywhere(&self, location: &str) -> Result<bool> {
        for database in self.databases().await? {
            if self.is_taken(&database, location).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The tables of a database in the order of their text ids, with what they are.
    pub(crate) async fn list(&self, database: &DatabaseName) -> Result<Vec<(TableId, Entry)>> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, database, false).await?;
        current
            .state
            .tables
            .iter()
            .map(|(text, entry)| Ok((TableId::parse(database, text)?, entry.clone())))
            .collect()
    }

    /// The databases that have a catalogue, dropped ones included, sorted.
    pub(crate) async fn databases(&self) -> Result<Vec<DatabaseName>> {
        let mut names: Vec<DatabaseName> = Vec::new();
        for object in self.system.list("catalog").await? {
            let Some(folder) = object.path.split('/').nth(1) else { continue };
            let Ok(name) = DatabaseName::parse(&folder.replace('$', "/")) else { continue };
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Enters a table.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    pub(crate) async fn insert(&self, id: &TableId, entry: Entry) -> Result<()> {
        self.change(&id.database, |state| {
            // The name may have been declared for this very table.
            state.declared.remove(&id.text());
            state.check_free(id)?;
            state.tables.insert(id.text(), entry.clone());
            state.is_gone = false;
            Ok(())
        })
        .await
    }

    /// Keeps a name, and a location for its first version.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    pub(crate) async fn declare(&self, id: &TableId, location: &str) -> Result<()> {
        self.change(&id.database, |state| {
            state.check_free(id)?;
            state.declared.insert(id.text(), location.to_owned());
            state.is_gone = false;
            Ok(())
        })
        .await
    }

    /// Where the first version of a declared table is to lie; nothing for another name.
    pub(crate) async fn declared(&self, id: &TableId) -> Result<Option<String>> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, &id.database, false).await?;
        Ok(current.state.declared.get(&id.text()).cloned())
    }

    /// The declared names of a database without a first version, in their order.
    pub(crate) async fn list_declared(&self, database: &DatabaseName) -> Result<Vec<TableId>> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, database, false).await?;
        current.state.declared.keys().map(|text| TableId::parse(database, text)).collect()
    }

    /// Gives up a declared name; whether there was one.
    pub(crate) async fn forget_declared(&self, id: &TableId) -> Result<bool> {
        if self.declared(id).await?.is_none() {
            return Ok(false);
        }
        let mut was_there = false;
        self.change(&id.database, |state| {
            was_there = state.declared.remove(&id.text()).is_some();
            Ok(())
        })
        .await?;
        Ok(was_there)
    }

    /// Enters what was deregistered at a location of the same database, or `entry` where nothing was.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, or the location belongs to a table or to a dropped one.
    pub(crate) async fn register(&self, id: &TableId, entry: Entry) -> Result<Entry> {
        let mut entered = entry;
        self.change(&id.database, |state| {
            state.check_free(id)?;
            if let Some(left) = state.left.remove(&entered.location) {
                entered = left;
            }
            if state.is_taken(&entered.location) {
                let location = &entered.location;
                let message = format!("`{location}` is the folder of another table");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            state.tables.insert(id.text(), entered.clone());
            state.is_gone = false;
            Ok(())
        })
        .await?;
        Ok(entered)
    }

    /// Takes a table out and notes that its folder is to be deleted.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub(crate) async fn remove(&self, id: &TableId) -> Result<Entry> {
        self.take_out(id, |state| &mut state.dropped).await
    }

    /// Takes a table out and leaves its folder as it is.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub(crate) async fn deregister(&self, id: &TableId) -> Result<Entry> {
        self.take_out(id, |state| &mut state.left).await
    }

    async fn take_out(
        &self,
        id: &TableId,
        to: fn(&mut State) -> &mut BTreeMap<String, Entry>,
    ) -> Result<Entry> {
        let mut taken = None;
        self.change(&id.database, |state| {
            let entry = state
                .tables
                .remove(&id.text())
                .ok_or_else(|| Error::not_found(format!("table `{id}` does not exist")))?;
            to(state).insert(entry.location.clone(), entry.clone());
            taken = Some(entry);
            Ok(())
        })
        .await?;
        taken.ok_or_else(|| Error::internal("a table that was taken out left no entry"))
    }

    /// Gives a table another name in the same database.
    ///
    /// # Errors
    /// `NotFound` without `from`, `AlreadyExists` with `to`, `InvalidArgument` across databases.
    pub(crate) async fn rename(&self, from: &TableId, to: &TableId) -> Result<()> {
        if from.database != to.database {
            return Err(Error::invalid(format!(
                "a table cannot be moved from database `{}` to `{}`",
                from.database, to.database
            )));
        }
        self.change(&from.database, |state| {
            state.check_free(to)?;
            let entry = state
                .tables
                .remove(&from.text())
                .ok_or_else(|| Error::not_found(format!("table `{from}` does not exist")))?;
            state.tables.insert(to.text(), entry);
            Ok(())
        })
        .await
    }

    /// The dropped tables of a database whose folders may still be there.
    pub(crate) async fn dropped(&self, database: &DatabaseName) -> Result<Vec<Entry>> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, database, false).await?;
        Ok(current.state.dropped.values().cloned().collect())
    }

    /// Forgets a dropped table whose folder is gone.
    pub(crate) async fn forget_dropped(
        &self,
        database: &DatabaseName,
        location: &str,
    ) -> Result<()> {
        self.change(database, |state| {
            state.dropped.remove(location);
            Ok(())
        })
        .await
    }

    /// The catalogue of a database as it is, and whether there is one.
    pub(crate) async fn state(&self, database: &DatabaseName) -> Result<(Arc<State>, bool)> {
        let mut loaded = self.loaded.lock().await;
        let current = self.load(&mut loaded, database, false).await?;
        Ok((current.state, current.number > 0))
    }

    /// The catalogue of a database as it is, and its number, which rises with each change; asked of the store
    /// with `anew`.
    pub(crate) async fn numbered_state(
        &self,
        database: &DatabaseName,
        anew: bool,
    ) -> Result<(u64, Arc<State>)> {
        let mut loaded = self.loaded.lock().await;
        let must_reload = anew && self.trusted_for.is_some();
        let current = self.load(&mut loaded, database, must_reload).await?;
        Ok((current.number, current.state))
    }

    /// Changes the catalogue of a database by one put-if-absent; `apply` runs again when another server
    /// was first.
    pub(crate) async fn change(
        &self,
        database: &DatabaseName,
        mut apply: impl FnMut(&mut State) -> Result<()>,
    ) -> Result<()> {
        let mut loaded = self.loaded.lock().await;
        let mut must_reload = false;
        loop {
            let current = self.load(&mut loaded, database, must_reload).await?;
            let mut state = State::clone(&current.state);
            apply(&mut state)?;
            state.format = state.oldest_format();
            let number = current.number + 1;
            let bytes = serde_json::to_vec(&state)
                .map_err(|error| Error::internal("encode the catalogue").with_source(error))?;
            let folder = folder_of(database);
            let path = format!("{folder}/{number:020}.json");
            match self.system.create(&path, Bytes::from(bytes)).await {
                Ok(true) => {}
                Ok(false) => {
                    must_reload = true;
                    continue;
                }
                Err(error) => {
                    // It may have been written all the same; the next look has to ask the store.
                    loaded.remove(database);
                    return Err(error);
                }
            }
            let state = Arc::new(state);
            loaded.insert(database.clone(), Loaded { number, state, at: Instant::now() });
            if let Some(old) = number.checked_sub(KEPT_STATES) {
                // An old state that stays behind is only a few bytes; the next change tries the next.
                let _ = self.system.delete(&format!("{folder}/{old:020}.json")).await;
            }
            return Ok(());
        }
    }

    async fn load(
        &self,
        loaded: &mut HashMap<DatabaseName, Loaded>,
        database: &DatabaseName,
        must_reload: bool,
    ) -> Result<Loaded> {
        if let Some(current) = loaded.get(database).filter(|_| !must_reload)
            && self.trusted_for.is_none_or(|trusted_for| current.at.elapsed() < trusted_for)
        {
            return Ok(current.clone());
        }
        let at = Instant::now();
        let folder = folder_of(database);
        let (number, state) = match self.system.list(&folder).await?.pop() {
            None => (0, State::default()),
            Some(newest) => {
                let number = newest
                    .path
                    .rsplit('/')
                    .next()
                    .and_then(|file| file.strip_suffix(".json"))
                    .and_then(|number| number.parse().ok())
                    .ok_or_else(|| corrupt(&newest.path, "its name is no number"))?;
                let bytes = self
                    .system
                    .get(&newest.path)
                    .await?
                    .ok_or_else(|| corrupt(&newest.path, "it vanished while it was read"))?;
                (number, parse(&newest.path, &bytes)?)
            }
        };
        let current = Loaded { number, state: Arc::new(state), at };
        loaded.insert(database.clone(), current.clone());
        Ok(current)
    }
}

fn parse(path: &str, bytes: &[u8]) -> Result<State> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let version: Version =
        serde_json::from_slice(bytes).map_err(|error| corrupt(path, &error.to_string()))?;
    if version.format > FORMAT {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "catalogue `{path}` has format {}; this server reads up to {FORMAT}",
                version.format
            ),
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| corrupt(path, &error.to_string()))
}

fn corrupt(path: &str, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("catalogue file `{path}` is damaged: {why}"))
}

/// The folder where a table of this name is looked for first.
pub(crate) fn canonical_location(id: &TableId) -> String {
    let mut location = id.database.to_string();
    for segment in id.namespace.segments() {
        location.push('/');
        location.push_str(segment);
    }
    format!("{location}/{}.lance", id.name)
}

/// The `n`-th place for a table whose canonical folder is taken, from 2.
pub(crate) fn numbered_location(id: &TableId, n: u32) -> String {
    let canonical = canonical_location(id);
    let stem = canonical.strip_suffix(".lance").unwrap_or(&canonical);
    format!("{stem}~{n}.lance")
}

/// Whether a table's namespace is `namespace` itself.
pub(crate) fn is_in(id: &TableId, namespace: &NamespacePath) -> bool {
    &id.namespace == namespace
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    fn id(text: &str) -> TableId {
        TableId::parse(&DatabaseName::default_database(), text).unwrap()
    }

    fn entry(location: &str) -> Entry {
        Entry { location: location.into(), uid: "u".into() }
    }

    #[tokio::test]
    async fn two_servers_see_one_history() {
        let store = SystemStore::new(Arc::new(InMemory::new()), Path::from("_lakebed"), None);
        let one = Catalog::new(store.clone(), Some(Duration::ZERO));
        let two = Catalog::new(store, Some(Duration::ZERO));
        let first = Entry { uid: "u-a".into(), ..entry("default/a.lance") };
        one.insert(&id("a"), first).await.unwrap();
        two.insert(&id("b"), entry("default/b.lance")).await.unwrap();
        let error = two.insert(&id("a"), entry("default/a~2.lance")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        one.rename(&id("a"), &id("ns$c")).await.unwrap();
        let names: Vec<String> = two
            .list(&DatabaseName::default_database())
            .await
            .unwrap()
            .into_iter()
            .map(|(id, _)| id.text())
            .collect();
        assert_eq!(names, ["b", "ns$c"]);
        assert_eq!(one.remove(&id("ns$c")).await.unwrap().location, "default/a.lance");
        let database = DatabaseName::default_database();
        assert!(two.is_taken(&database, "default/a.lance").await.unwrap());
        let dropped = two.by_uid(&database, "u-a").await.unwrap().unwrap();
        assert_eq!(dropped.location, "default/a.lance");
        two.forget_dropped(&database, "default/a.lance").await.unwrap();
        assert_eq!(one.by_uid(&database, "u-a").await.unwrap(), None);
        for number in 0..20 {
            one.insert(&id(&format!("t{number}")), entry("x")).await.unwrap();
        }
        assert_eq!(two.list(&DatabaseName::default_database()).await.unwrap().len(), 21);
    }

    #[tokio::test]
    async fn a_newer_format_is_refused_and_left_alone() {
        let store = SystemStore::new(Arc::new(InMemory::new()), Path::from("_lakebed"), None);
        let path = "catalog/default/00000000000000000001.json";
        let bytes = Bytes::from_static(br#"{"format":9,"tables":{},"novel":1}"#);
        store.put(path, bytes.clone()).await.unwrap();
        let catalog = Catalog::new(store.clone(), None);
        let error = catalog.insert(&id("a"), entry("x")).await.unwrap_err();
        assert!(error.message().contains("format 9"), "{error}");
        assert_eq!(store.get(path).await.unwrap(), Some(bytes));
    }
}
