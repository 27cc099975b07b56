//! The lake: one root with its databases, tables and system state.
//!
//! Owns the process's claim on a local root (an OS file lock), the record of what the lake is and where
//! it was made, the catalogue, and one [`Table`] handle per table folder, so that all requests for a
//! table meet in the same commit queue.

use async_recursion::async_recursion as boxed;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use lakebed_core::{
    Clock, DatabaseName, Error, ErrorKind, Limits, NamespacePath, Result, TableId, nearest_names,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::backup::refuse_cut_off;
use crate::blob_claims::{BlobClaims, WriteClaims};
use crate::blob_sweep::references_path;
use crate::catalog::{Catalog, Entry, canonical_location, is_in, numbered_location};
use crate::cleanup::purges_folder;
use crate::creators::Creators;
use crate::cursors;
use crate::durable::create_folder_durably;
use crate::lance_error::{from_io, from_lance, from_object_store};
use crate::pins::Pins;
use crate::read_cache::{ReadCache, ReadCacheOptions};
use crate::root::{BLOBS_FOLDER, Root, SYSTEM_FOLDER};
use crate::row_sets::{self, ReadSets};
use crate::servers::{DoomNote, Leader, ServerAddresses, Servers};
use crate::system::SystemStore;
use crate::table::Table;
use crate::update::GROUPS_AT_ONCE;

/// The format of everything under `_lakebed/` that this server writes.
pub const LAKE_FORMAT: u32 = 1;

pub(crate) const LAKE_RECORD: &str = "lake.json";

/// How to open a lake.
#[derive(Debug, Clone)]
pub struct LakeOptions {
    /// A local folder or `s3://bucket/prefix`.
    pub root: String,
    /// Options of the S3 store beyond the `AWS_*` environment, by the names of object_store.
    pub storage_options: HashMap<String, String>,
    /// Bytes of index pages kept in memory.
    pub index_cache_bytes: usize,
    /// Bytes of manifests and file metadata kept in memory.
    pub metadata_cache_bytes: usize,
    /// Where reads of a lake in a bucket are kept.
    pub read_cache: Option<ReadCacheOptions>,
    /// Limits that storage keeps.
    pub limits: Limits,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl LakeOptions {
    /// Options with small caches, for a root.
    pub fn at(root: impl Into<String>) -> Self {
        LakeOptions {
            root: root.into(),
            storage_options: HashMap::new(),
            index_cache_bytes: 256 << 20,
            metadata_cache_bytes: 128 << 20,
            read_cache: None,
            limits: Limits::default(),
            clock: Arc::new(lakebed_core::SystemClock),
        }
    }
}

/// What a lake says of itself in `_lakebed/lake.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LakeRecord {
    pub(crate) format: u32,
    pub(crate) lake_id: String,
    /// Where the lake lay when it was made or last relocated: manifests hold absolute paths.
    pub(crate) root: String,
    pub(crate) created_at_ms: i64,
}

/// What a lake and its tables have in common. Tables hold this and not the lake, so that dropping the
/// lake releases its lock.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: Root,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pins: Pins,
    pub(crate) blob_claims: Arc<BlobClaims>,
    pub(crate) system: SystemStore,
    /// The servers of the lake, once this process is one of them and there can be others.
    pub(crate) servers: OnceLock<Arc<Servers>>,
    /// Groups of updates that are under way.
    pub(crate) updating: Semaphore,
    /// Row sets that were read lately.
    pub(crate) read_sets: ReadSets,
}

impl Shared {
    /// Leaves the lead of a table to another server, where there is one and the store answers.
    pub(crate) async fn give_up(&self, uid: &str) {
        if let Some(servers) = self.servers.get()
            && tokio::time::timeout(GIVE_UP_MAX, servers.give_up(uid)).await.is_err()
        {
            tracing::warn!(subject = uid, "the lead is not given up: the store does not answer");
        }
    }

    /// What else than memory says which blobs are claimed: in a bucket, which other servers may use.
    pub(crate) fn bucket(&self) -> Option<(SystemStore, Arc<dyn Clock>)> {
        let is_bucket = self.root.local().is_none();
        is_bucket.then(|| (self.system.clone(), Arc::clone(&self.clock)))
    }

    /// The claims of a write on large blobs, none yet.
    pub(crate) fn write_claims(&self) -> Arc<WriteClaims> {
        WriteClaims::new(Arc::clone(&self.blob_claims), self.bucket())
    }

    /// Opens the dataset at a location at its newest version on a branch.
    pub(crate) async fn open_dataset(
        &self,
        location: &str,
        branch: Option<&str>,
    ) -> Result<lance::Dataset> {
        let mut builder = self.root.dataset(location);
        if let Some(branch) = branch {
            builder = builder.with_branch(branch, None);
        }
        builder.load().await.map_err(from_lance)
    }
}

/// Asks the server at an address to give the lead of the table of a uid to this one.
type AskLead = Box<dyn Fn(ServerAddresses, String) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What giving up a lead gets when the store does not answer: requests for the table wait for it.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);
/// Times that the lead of a table is asked for: others may ask, too.
const ASK_TRIES_MAX: usize = 5;

/// An open lake.
pub struct Lake {
    pub(crate) shared: Arc<Shared>,
    pub(crate) catalog: Catalog,
    pub(crate) record: LakeRecord,
    tables: Mutex<HashMap<String, Arc<Table>>>,
    pub(crate) creators: Creators,
    /// Uids of tables that are known to be no materialized views.
    pub(crate) plain_tables: Mutex<HashSet<String>>,
    /// Held while a clone is made, so that two of one name do not meet in a folder.
    pub(crate) cloning: tokio::sync::Mutex<()>,
    /// Held while a model is changed: files of models are deleted by what all records say.
    pub(crate) modelling: tokio::sync::Mutex<()>,
    /// Asks another server for the lead of a table.
    asker: OnceLock<AskLead>,
    /// Held until the lake is dropped: a second server on the same folder must not start.
    _lock: Option<File>,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lake").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens the lake at the root, or makes one there.
    ///
    /// # Errors
    /// `AlreadyExists` when another process holds a local lake, `InvalidArgument` when it was moved and
    /// not relocated, `Unavailable` when its format is newer or the store does not answer.
    #[boxed]
    pub async fn open(options: LakeOptions) -> Result<Arc<Lake>> {
        let (mut root, system) = open_root(&options)?;
        if let Some(folder) = root.local() {
            create_folder_durably(&folder.join(SYSTEM_FOLDER))?;
            create_folder_durably(&folder.join(BLOBS_FOLDER))?;
        }
        let lock = claim(&root)?;
        refuse_cut_off(&system, root.uri()).await?;
        let record = match read_record(&system).await? {
            Some(record) => record,
            None => {
                let record = LakeRecord {
                    format: LAKE_FORMAT,
                    lake_id: uuid::Uuid::new_v4().to_string(),
                    root: root.uri().to_owned(),
                    created_at_ms: options.clock.now_ms(),
                };
                system.create(LAKE_RECORD, encode_record(&record)?).await?;
                // Another server may have been first; what is stored is the truth.
                read_record(&system).await?.unwrap_or(record)
            }
        };
        if record.root != root.uri() {
            return Err(Error::invalid(format!(
                "the lake was made at `{}` and now lies at `{}`: its manifests hold absolute paths; \
                 run `lakebed relocate --data {}` once before serving it",
                record.root,
                root.uri(),
                root.uri()
            )));
        }
        if root.local().is_none() {
            check_conditional_put(&system).await?;
        }
        if let Some(cache) = &options.read_cache {
            if root.local().is_some() {
                return Err(Error::invalid("a read cache is for a lake in a bucket"));
            }
            root.set_read_cache(ReadCache::open(cache, &record.lake_id).await?);
        }
        let trusted_for = root.local().is_none().then_some(Duration::from_secs(1));
        let catalog = Catalog::new(system.clone(), trusted_for);
        let LakeOptions { limits, clock, .. } = options;
        let lake = Arc::new(Lake {
            shared: Arc::new(Shared {
                root,
                limits,
                clock,
                pins: Pins::default(),
                blob_claims: Arc::default(),
                system,
                servers: OnceLock::new(),
                updating: Semaphore::new(GROUPS_AT_ONCE),
                read_sets: ReadSets::default(),
            }),
            catalog,
            record,
            tables: Mutex::new(HashMap::new()),
            creators: Creators::default(),
            plain_tables: Mutex::default(),
            cloning: tokio::sync::Mutex::default(),
            modelling: tokio::sync::Mutex::default(),
            asker: OnceLock::new(),
            _lock: lock,
        });
        lake.finish_drops().await?;
        lake.finish_restores().await?;
        Ok(lake)
    }

    /// The system's own state under `_lakebed/`.
    pub fn system(&self) -> &SystemStore {
        &self.shared.system
    }

    /// The stable id of the lake.
    pub fn lake_id(&self) -> &str {
        &self.record.lake_id
    }

    /// The folder, for a local lake.
    pub fn local_folder(&self) -> Option<&std::path::Path> {
        self.shared.root.local()
    }

    /// Whether the lake lies in a bucket and not in a folder.
    pub fn is_in_bucket(&self) -> bool {
        self.shared.root.local().is_none()
    }

    /// What tools call the thing at `relative` below the lake's root: a path or an address of a bucket.
    pub fn uri_of(&self, relative: &str) -> String {
        self.shared.root.uri_of(relative)
    }

    /// The databases of the lake, sorted.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_databases(&self) -> Result<Vec<DatabaseName>> {
        let mut databases = Vec::new();
        for database in self.catalog.databases().await? {
            if !self.catalog.state(&database).await?.0.is_gone {
                databases.push(database);
            }
        }
        Ok(databases)
    }

    /// The tables of a namespace, or of the whole database, sorted by id, with their folders.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_tables(
        &self,
        database: &DatabaseName,
        namespace: Option<&NamespacePath>,
    ) -> Result<Vec<(TableId, String)>> {
        let tables = self.catalog.list(database).await?;
        Ok(tables
            .into_iter()
            .filter(|(id, _)| namespace.is_none_or(|namespace| is_in(id, namespace)))
            .map(|(id, entry)| (id, entry.location))
            .collect())
    }

    /// The table of that name, or nothing. A dataset that stands at the canonical place and is in no
    /// catalogue is adopted.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn find_table(&self, id: &TableId) -> Result<Option<Arc<Table>>> {
        if let Some(entry) = self.catalog.get(id).await? {
            return Ok(Some(self.handle(entry)));
        }
        let declared = self.catalog.declared(id).await?;
        let location = declared.unwrap_or_else(|| canonical_location(id));
        if self.catalog.is_taken_anywhere(&location).await?
            || !self.holds_dataset(&location).await?
        {
            // Asked again: a create that lost to one in another folder takes its data set away once
            // the name is that one's, which may have happened since the first look.
            return Ok(self.catalog.get(id).await?.map(|entry| self.handle(entry)));
        }
        match self.register(id, &location).await {
            Ok(table) => Ok(Some(table)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Ok(self.catalog.get(id).await?.map(|entry| self.handle(entry)))
            }
            Err(error) => Err(error),
        }
    }

    /// The table of that name.
    ///
    /// # Errors
    /// `NotFound` naming the nearest tables.
    #[boxed]
    pub async fn table(&self, id: &TableId) -> Result<Arc<Table>> {
        if let Some(table) = self.find_table(id).await? {
            return Ok(table);
        }
        if self.find_view(id).await?.is_some() {
            let message = "is a view and no table; views are read in SQL";
            return Err(Error::not_found(format!("`{}` {message}", id.text())));
        }
        let known = self.catalog.list(&id.database).await?;
        let names: Vec<String> = known.iter().map(|(id, _)| id.text()).collect();
        let near = nearest_names(&id.text(), names.iter().map(String::as_str));
        Err(Error::not_found(format!("table `{}` does not exist{near}", id.text())))
    }

    /// The table of that uid, whatever its name is by now; a dropped one for as long as it is kept.
    ///
    /// # Errors
    /// `NotFound` when it was dropped and nobody kept it.
    #[boxed]
    pub async fn table_by_uid(&self, database: &DatabaseName, uid: &str) -> Result<Arc<Table>> {
        match self.catalog.by_uid(database, uid).await? {
            Some(entry) => Ok(self.handle(entry)),
            None => Err(Error::not_found("the table was dropped")),
        }
    }

    /// The name that the table of a uid has now; nothing for one that was dropped.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn name_of(&self, database: &DatabaseName, uid: &str) -> Result<Option<TableId>> {
        self.catalog.name_of(database, uid).await
    }

    /// Enters a dataset at `location` under a name.
    pub(crate) async fn register(&self, id: &TableId, location: &str) -> Result<Arc<Table>> {
        let entry =
            Entry { location: location.to_owned(), uid: uuid::Uuid::now_v7().simple().to_string() };
        self.catalog.insert(id, entry.clone()).await?;
        Ok(self.handle(entry))
    }

    /// The first place for a new table of this name where no dataset lies: the one that it was declared
    /// with, where it was.
    pub(crate) async fn free_location(&self, id: &TableId) -> Result<String> {
        let declared = self.catalog.declared(id).await?;
        let mut location = declared.unwrap_or_else(|| canonical_location(id));
        let mut n = 1;
        while self.catalog.is_taken_anywhere(&location).await?
            || self.holds_dataset(&location).await?
        {
            n += 1;
            location = numbered_location(id, n);
        }
        Ok(location)
    }

    pub(crate) async fn holds_dataset(&self, location: &str) -> Result<bool> {
        use futures::TryStreamExt as _;
        let versions = self.shared.root.path(&format!("{location}/_versions"));
        let mut listing = self.shared.root.store().list(Some(&versions));
        let first = listing
            .try_next()
            .await
            .map_err(|error| from_object_store(error, "listing of a table's versions"))?;
        Ok(first.is_some())
    }

    pub(crate) fn handle(&self, entry: Entry) -> Arc<Table> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&entry.uid).filter(|table| !table.is_lost()) {
            return Arc::clone(table);
        }
        let table = Arc::new(Table::new(self.shared.clone(), entry));
        tables.insert(table.uid().to_owned(), Arc::clone(&table));
        table
    }

    /// Makes this process one of the servers of the lake, which the others reach at these base URLs. A
    /// local lake has one server only, and nothing is done.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn join_servers(&self, http: String, flight: String) -> Result<()> {
        if self.shared.root.local().is_some() || self.shared.servers.get().is_some() {
            return Ok(());
        }
        let ttl = Duration::from_millis(self.shared.limits.server_ttl_ms);
        let (pins, clock) = (self.shared.pins.clone(), Arc::clone(&self.shared.clock));
        let servers =
            Servers::join(self.shared.system.clone(), http, flight, ttl, pins, clock).await?;
        let _ = self.shared.servers.set(Arc::new(servers));
        Ok(())
    }

    /// Says how another server is asked for the lead of a table.
    pub fn ask_by(&self, ask: AskLead) {
        let _ = self.asker.set(ask);
    }

    /// Makes this server lead a table, also where another one does, which is asked to give it; the handle
    /// to change it by.
    ///
    /// # Errors
    /// `Unavailable` when the other server does not give it, or the store does not answer.
    #[boxed]
    pub async fn insist(&self, table: &Arc<Table>) -> Result<Arc<Table>> {
        let Some(servers) = self.shared.servers.get() else { return Ok(Arc::clone(table)) };
        let mut other = None;
        for _ in 0..ASK_TRIES_MAX {
            match servers.lead(table.uid()).await? {
                Leader::Here { .. } => return Ok(self.handle(table.entry.clone())),
                Leader::There(leader) => {
                    let Some(ask) = self.asker.get() else { break };
                    ask(leader.clone(), table.uid().to_owned()).await?;
                    servers.forget(table.uid());
                    other = Some(leader);
                }
            }
        }
        let other = other.map(|other| other.http).unwrap_or_default();
        let message = format!("the server at {other} leads the table and does not give it");
        Err(Error::new(ErrorKind::Unavailable, message).with_retry_after_ms(1_000))
    }

    /// Gives the lead of a table to another server. What changes rows meanwhile is waited for; appends
    /// that are under way are refused when they would commit.
    ///
    /// # Errors
    /// `Conflict` when this server does not lead it, `Busy` when it is being changed for long.
    #[boxed]
    pub async fn give_lead(&self, uid: &str, to: &str) -> Result<()> {
        let servers = self
            .shared
            .servers
            .get()
            .ok_or_else(|| Error::new(ErrorKind::Conflict, "the lake has one server"))?;
        let table = self.open_tables().into_iter().find(|table| table.uid() == uid);
        let _quiet = match &table {
            Some(table) => Some(table.stand_down().await?),
            None => None,
        };
        servers.give(uid, to).await
    }

    /// The servers of the lake, where it can have several.
    pub fn servers(&self) -> Option<&Arc<Servers>> {
        self.shared.servers.get()
    }

    /// The other server that leads a table; nothing when this one does, or may from now on, or when
    /// there is no such table.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn other_leader(&self, id: &TableId) -> Result<Option<ServerAddresses>> {
        let Some(servers) = self.shared.servers.get() else { return Ok(None) };
        let Some(table) = self.find_table(id).await? else { return Ok(None) };
        Ok(match servers.lead(table.uid()).await? {
            Leader::Here { .. } => None,
            Leader::There(other) => Some(other),
        })
    }

    /// The tables that this process has worked with, whatever their database.
    pub fn open_tables(&self) -> Vec<Arc<Table>> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.values().cloned().collect()
    }

    /// Gives a table another name; its folder stays.
    ///
    /// # Errors
    /// `NotFound`, or `AlreadyExists` when the new name is taken.
    #[boxed]
    pub async fn rename_table(&self, from: &TableId, to: &TableId) -> Result<()> {
        self.table(from).await?;
        if self.find_table(to).await?.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("table `{}` already exists", to.text()),
            ));
        }
        self.catalog.rename(from, to).await
    }

    /// Drops a table. Its name is free at once, and a write that is under way is refused when it would
    /// commit; its folder is deleted now, or as soon as the last reader, writer and ticket are done
    /// with it.
    ///
    /// # Errors
    /// `NotFound`, or `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn drop_table(&self, id: &TableId) -> Result<()> {
        if self.find_table(id).await?.is_none() && self.catalog.forget_declared(id).await? {
            return Ok(());
        }
        self.table(id).await?;
        let entry = self.catalog.remove(id).await?;
        self.finish_drop(&id.database, &entry).await;
        Ok(())
    }

    /// Ends the writes to a table that left the catalogue, and deletes its folder if nobody needs it.
    /// The drop is done by then: what cannot be deleted now is deleted by the next pass of maintenance.
    pub(crate) async fn finish_drop(&self, database: &DatabaseName, entry: &Entry) {
        self.handle(entry.clone()).set_dropped();
        if let Err(error) = self.delete_if_unused(database, entry).await {
            tracing::info!(error = %error.report(), "a dropped table's folder stays for now");
        }
    }

    /// Deletes the folders of dropped tables that nobody needs any more; says how many.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; what is left is tried again next time.
    #[boxed]
    pub async fn finish_drops(&self) -> Result<usize> {
        let mut deleted = 0;
        self.forget_clones(None).await?;
        for database in self.catalog.databases().await? {
            for entry in self.catalog.dropped(&database).await? {
                deleted += usize::from(self.delete_if_unused(&database, &entry).await?);
            }
        }
        Ok(deleted)
    }

    async fn delete_if_unused(&self, database: &DatabaseName, entry: &Entry) -> Result<bool> {
        let now_ms = self.shared.clock.now_ms();
        let Some(_doom) = self.shared.pins.doom(&entry.location, now_ms) else { return Ok(false) };
        let note = DoomNote { location: entry.location.clone(), branch: None, versions: None };
        let agreed = match self.shared.servers.get() {
            Some(servers) => Some(servers.agree(note).await?),
            None => None,
        };
        if agreed.as_ref().is_some_and(|agreed| !agreed.held.is_empty()) {
            return Ok(false);
        }
        // Clones share its files.
        if self.has_clones(&entry.uid).await? {
            return Ok(false);
        }
        // Another pass may have been first, and what stands there now may be a new table.
        if !self.catalog.dropped(database).await?.contains(entry) {
            return Ok(false);
        }
        self.delete_below(&entry.location).await?;
        self.forget_clones(Some(&entry.location)).await?;
        for object in self.shared.system.list(&format!("write_ids/{}", entry.uid)).await? {
            self.shared.system.delete(&object.path).await?;
        }
        self.shared.system.delete_below(&format!("cleanup/{}", entry.uid)).await?;
        self.shared.system.delete_below(&cursors::folder_of(&entry.uid)).await?;
        for folder in row_sets::folders_of(&entry.uid) {
            self.shared.system.delete_below(&folder).await?;
        }
        self.shared.system.delete(&references_path(&entry.uid)).await?;
        self.shared.system.delete_below(&purges_folder(&entry.uid)).await?;
        self.catalog.forget_dropped(database, &entry.location).await?;
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).remove(&entry.uid);
        Ok(true)
    }

    pub(crate) async fn delete_below(&self, location: &str) -> Result<()> {
        if let Some(local) = self.shared.root.local() {
            let folder = local.join(location);
            return match tokio::fs::remove_dir_all(&folder).await {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(from_io(error, "delete a dropped table's folder")),
            };
        }
        use futures::{StreamExt as _, TryStreamExt as _};
        let store = self.shared.root.store();
        let paths = store.list(Some(&self.shared.root.path(location))).map_ok(|meta| meta.location);
        store
            .delete_stream(paths.boxed())
            .try_for_each(|_| futures::future::ready(Ok(())))
            .await
            .map_err(|error| from_object_store(error, "deletion of a dropped table"))
    }

    /// Forgets what was kept of reads from a bucket.
    ///
    /// # Errors
    /// `Unavailable` when the disk of the read cache fails.
    #[boxed]
    pub async fn clear_read_cache(&self) -> Result<()> {
        match self.shared.root.read_cache() {
            Some(cache) => cache.clear().await,
            None => Ok(()),
        }
    }

    /// Whether a backup of it is under way, until whose end nothing is deleted.
    pub fn is_being_copied(&self) -> bool {
        self.shared.pins.are_all_kept()
    }

    /// Checks that the store answers.
    ///
    /// # Errors
    /// `Unavailable` when it does not.
    #[boxed]
    pub async fn check_ready(&self) -> Result<()> {
        match self.shared.system.get(LAKE_RECORD).await? {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Unavailable, "the lake's record is missing")),
        }
    }

    /// Writes what is only in memory and can be rebuilt slowly: the write ids since their checkpoints.
    #[boxed]
    pub async fn flush(&self) {
        for table in self.open_tables() {
            table.flush().await;
        }
    }
}

/// Opens the root of a lake.
pub(crate) fn open_root(options: &LakeOptions) -> Result<(Root, SystemStore)> {
    let root = Root::open(
        &options.root,
        &options.storage_options,
        options.index_cache_bytes,
        options.metadata_cache_bytes,
    )?;
    let folder = root.local().map(|local| local.join(SYSTEM_FOLDER));
    let system = SystemStore::new(root.store().clone(), root.path(SYSTEM_FOLDER), folder);
    Ok((root, system))
}

/// Claims a local lake for as long as the file lives.
pub(crate) fn claim(root: &Root) -> Result<Option<File>> {
    let Some(folder) = root.local() else { return Ok(None) };
    let path = folder.join(SYSTEM_FOLDER).join("lock");
    let file = File::create(&path).map_err(|error| from_io(error, "open the lake's lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("another server holds the lake (lock file {})", path.display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(from_io(error, "lock the lake")),
    }
}

pub(crate) async fn read_record(system: &SystemStore) -> Result<Option<LakeRecord>> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let Some(bytes) = system.get(LAKE_RECORD).await? else { return Ok(None) };
    let corrupt = |error: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, "the lake's record is damaged").with_source(error)
    };
    let version: Version = serde_json::from_slice(&bytes).map_err(corrupt)?;
    if version.format > LAKE_FORMAT {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the lake has format {}; this server reads up to format {LAKE_FORMAT}; nothing was \
                 touched",
                version.format
            ),
        ));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
}

pub(crate) fn encode_record(record: &LakeRecord) -> Result<Bytes> {
    serde_json::to_vec_pretty(record)
        .map(Bytes::from)
        .map_err(|error| Error::internal("encode the lake's record").with_source(error))
}

pub(crate) async fn write_record(system: &SystemStore, record: &LakeRecord) -> Result<()> {
    system.put(LAKE_RECORD, encode_record(record)?).await
}

/// A store that takes a second put-if-absent would lose commits silently.
async fn check_conditional_put(system: &SystemStore) -> Result<()> {
    let path = format!("probe/{}", uuid::Uuid::now_v7().simple());
    let first = system.create(&path, Bytes::from_static(b"1")).await?;
    let second = system.create(&path, Bytes::from_static(b"2")).await?;
    system.delete(&path).await?;
    match (first, second) {
        (true, false) => Ok(()),
        _ => Err(Error::invalid(
            "the object store does not honour `If-None-Match: *` on put; commits would be lost",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::At;
    use crate::test_lake::{create, id, lake};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_late_pass_leaves_the_table_that_took_the_place() {
        let (lake, _folder) = lake().await;
        create(&lake, "t").await;
        let old = lake.catalog.get(&id("t")).await.unwrap().unwrap();
        lake.drop_table(&id("t")).await.unwrap();
        create(&lake, "t").await;
        assert_eq!(lake.table(&id("t")).await.unwrap().location(), old.location);
        assert!(!lake.delete_if_unused(&id("t").database, &old).await.unwrap());
        let table = lake.table(&id("t")).await.unwrap();
        let snapshot = table.snapshot(None, &At::Latest).await.unwrap();
        assert_eq!(snapshot.count_rows().await.unwrap(), 1);
        snapshot.validate().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dropped_table_stays_while_it_is_read() {
        let (lake, _folder) = lake().await;
        create(&lake, "t").await;
        let table = lake.table(&id("t")).await.unwrap();
        let snapshot = table.snapshot(None, &At::Latest).await.unwrap();
        lake.drop_table(&id("t")).await.unwrap();
        let database = id("t").database;
        let kept = lake.table_by_uid(&database, table.uid()).await.unwrap();
        assert!(Arc::ptr_eq(&kept, &table));
        assert_eq!(lake.finish_drops().await.unwrap(), 0);
        drop(snapshot);
        assert_eq!(lake.finish_drops().await.unwrap(), 1);
        let error = lake.table_by_uid(&database, table.uid()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
