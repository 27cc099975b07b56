//! Puts a backup back: whole into an empty place, or single tables into a lake under free names.
//!
//! A table that is put back gets a uid of its own, so that nothing that is remembered of an earlier table
//! is taken for its. Until it is in the catalogue a note in `_lakebed/restores/` says that its folder is
//! half done; whoever opens the lake next deletes such a folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result, TableId};
use serde::{Deserialize, Serialize};

use super::catalogs::{Catalogs, Selection};
use super::copier::Copier;
use super::place::{Kind, Place};
use super::record::{BACKUP_RECORD, BackupRecord, RUNNING_RECORD, RunningRecord, read};
use super::table::{TableMove, Transfer};
use super::{Backup, BackupCounts, BackupProgress, Origin, WholeCopy};
use crate::catalog::Entry;
use crate::lake::{Lake, LakeOptions, open_root, read_record};
use crate::root::{Root, SYSTEM_FOLDER};
use crate::system::SystemStore;

const RESTORES_FOLDER: &str = "restores";

/// A table to be put back, and its name from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreTable {
    /// Its name in the backup.
    pub table: TableId,
    /// Its name in the lake.
    pub to: TableId,
}

/// What putting tables back did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Whether nothing was written.
    #[serde(rename = "dry_run")]
    pub is_dry_run: bool,
    /// The new names of the tables.
    pub tables: Vec<String>,
    /// What was copied.
    pub counts: BackupCounts,
}

/// The note of a table that is being put back.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    database: String,
    location: String,
}

/// A backup that is read.
struct Source {
    root: Root,
    system: SystemStore,
    record: crate::lake::LakeRecord,
    _lock: Option<File>,
    notes: Vec<String>,
}

impl Source {
    async fn open(options: &LakeOptions) -> Result<Source> {
        let shown = options.root.as_str();
        let none = || Error::not_found(format!("there is no backup at `{shown}`"));
        // Opening a root makes its folder.
        if !shown.contains("://") && !Path::new(shown).is_dir() {
            return Err(none());
        }
        let (root, system) = open_root(options)?;
        let lock = hold(&root)?;
        let backup: Option<BackupRecord> = read(&system, BACKUP_RECORD).await?;
        let running: Option<RunningRecord> = read(&system, RUNNING_RECORD).await?;
        let mut notes = Vec::new();
        match (&backup, &running) {
            (Some(_), None) => {}
            (Some(_), Some(_)) => notes.push(format!(
                "a later backup into `{shown}` was cut off: each table is at the newest state that is \
                 there completely"
            )),
            (None, Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the backup at `{shown}` was cut off before it was whole"),
                ));
            }
            (None, None) => return Err(none()),
        }
        let record = read_record(&system).await?.ok_or_else(none)?;
        Ok(Source { root, system, record, _lock: lock, notes })
    }

    fn origin(&self) -> Origin<'_> {
        Origin { root: &self.root, system: &self.system, record: self.record.clone() }
    }
}

/// Keeps backups out of a local backup while it is read, also where nothing can be written.
fn hold(root: &Root) -> Result<Option<File>> {
    let Some(folder) = root.local() else { return Ok(None) };
    let Ok(file) = File::open(folder.join(SYSTEM_FOLDER).join("lock")) else { return Ok(None) };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(_) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("`{}` is being written or served", root.uri()),
        )),
    }
}

/// Makes a lake of a backup, in an empty place.
///
/// # Errors
/// `NotFound` when there is no backup, `AlreadyExists` for a place that is not empty, `Corrupt` for a
/// backup that is damaged, `Unavailable` when a store does not answer or the disk is full; then running
/// it again goes on.
pub fn restore<'a>(
    from: &'a LakeOptions,
    to: &'a LakeOptions,
    is_dry_run: bool,
    progress: &'a BackupProgress,
) -> BoxFuture<'a, Result<Backup>> {
    async move {
        let source = Source::open(from).await?;
        let id = &source.record.lake_id;
        let place = Place::open(to, &source.root, id, Kind::Restore, is_dry_run).await?;
        let copy = WholeCopy {
            origin: source.origin(),
            place: &place,
            kind: Kind::Restore,
            selection: Selection::Lake,
            // All that the backup has.
            with_audit: true,
            is_dry_run,
            prune: false,
            now_ms: to.clock.now_ms(),
            progress,
        };
        let clock = || to.clock.now_ms();
        let mut done = copy.run(&to.root, &clock).await?;
        done.notes.extend(source.notes.iter().cloned());
        Ok(done)
    }
    .boxed()
}

/// Puts tables of a backup back into a lake that no server holds, under names that are free.
///
/// # Errors
/// Those of [`restore`], and `AlreadyExists` naming a table that is there.
pub fn restore_tables<'a>(
    from: &'a LakeOptions,
    lake: &'a Arc<Lake>,
    tables: &'a [RestoreTable],
    is_dry_run: bool,
    progress: &'a BackupProgress,
) -> BoxFuture<'a, Result<Restored>> {
    async move {
        let source = Source::open(from).await?;
        let wanted: BTreeSet<TableId> = tables.iter().map(|table| table.table.clone()).collect();
        let catalogs =
            Catalogs::read(&source.system, &Selection::Tables(wanted)).await?.tables(None);
        for table in tables {
            if lake.find_table(&table.to).await?.is_some() {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("table `{}` already exists; give it another name", table.to),
                ));
            }
        }
        progress.planned(tables.len());
        let root = &lake.shared.root;
        let transfer = Transfer {
            from: &source.root,
            made_at: &source.record.root,
            to: root,
            copier: Copier::new(&source.root, root, progress, is_dry_run),
            progress,
        };
        for table in tables {
            let found = catalogs.iter().find(|found| found.id == table.table);
            let found = found.ok_or_else(|| Error::internal("a table was not found"))?;
            put_back(lake, &transfer, found, &table.to, is_dry_run).await?;
        }
        Ok(Restored {
            is_dry_run,
            tables: tables.iter().map(|table| table.to.to_string()).collect(),
            counts: progress.counts(),
        })
    }
    .boxed()
}

async fn put_back(
    lake: &Arc<Lake>,
    transfer: &Transfer<'_>,
    found: &TableMove,
    to: &TableId,
    is_dry_run: bool,
) -> Result<()> {
    let table = TableMove {
        new_uid: uuid::Uuid::now_v7().simple().to_string(),
        new_location: lake.free_location(to).await?,
        ..found.clone()
    };
    let system = &lake.shared.system;
    let note_path = format!("{RESTORES_FOLDER}/{}.json", table.new_uid);
    let note = Note { database: to.database.to_string(), location: table.new_location.clone() };
    if !is_dry_run {
        let bytes = serde_json::to_vec(&note)
            .map_err(|error| Error::internal("encode a note").with_source(error))?;
        system.put(&note_path, Bytes::from(bytes)).await?;
    }
    let plan = transfer.copy_files(&table).await?;
    let claims = lake.shared.write_claims();
    transfer.copy_blobs_of(&plan, Some(&claims)).await?;
    claims.may_commit();
    transfer.copier.sync_folders().await?;
    let copied = transfer.copy_versions(&plan).await;
    claims.end(&copied);
    copied?;
    transfer.copy_receipts(&plan).await?;
    if is_dry_run {
        return Ok(());
    }
    let entry = Entry { location: table.new_location.clone(), uid: table.new_uid.clone() };
    lake.catalog.insert(to, entry).await?;
    system.delete(&note_path).await
}

impl Lake {
    /// Deletes the folders of tables whose putting back was cut off.
    pub(crate) async fn finish_restores(&self) -> Result<()> {
        let system = &self.shared.system;
        for object in system.list(RESTORES_FOLDER).await? {
            let Some(bytes) = system.get(&object.path).await? else { continue };
            if let Ok(note) = serde_json::from_slice::<Note>(&bytes)
                && note.location.ends_with(".lance")
                && !self.catalog.is_taken_anywhere(&note.location).await?
            {
                tracing::info!(table = note.location, "the rest of a cut-off restore is deleted");
                self.delete_below(&note.location).await?;
            }
            system.delete(&object.path).await?;
        }
        Ok(())
    }
}
