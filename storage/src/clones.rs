//! Shallow clones: tables that begin with a version of another and share its files.
//!
//! ```text
//!   version of the source, pinned ─► record below _lakebed/clones/ ─► first version of the clone ─► its name
//!                                              │
//!              cleaning, purges and drops of the source ask for it
//! ```
//!
//! The record stands before the clone does and goes after its folder went, so what a clone shares is never
//! deleted under it. One that no clone followed is taken away by maintenance after an hour.

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{CommitBuilder, WriteDestination};
use serde::{Deserialize, Serialize};

use crate::catalog::Entry;
use crate::commit::sync_versions;
use crate::durable::{DurableCommitHandler, create_folder_durably};
use crate::lake::Lake;
use crate::lance_error::from_lance;
use crate::snapshot::At;
use crate::table::Table;

const FOLDER: &str = "clones";
const FORMAT: u32 = 1;
/// How long a record waits for its clone.
const ORPHAN_MS: i64 = 3_600_000;

/// A clone, as the lake remembers it for the table that it shares files with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Where the clone lies, relative to the lake's root.
    location: String,
    /// The version of the source's main branch.
    version: u64,
    created_at_ms: i64,
}

/// A table that was cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloned {
    /// Where it lies, relative to the lake's root.
    pub location: String,
    /// Its first version.
    pub version: u64,
}

impl Lake {
    /// Makes a table that begins with a version of the table at `source`, a folder as other tools name it,
    /// and shares its files.
    ///
    /// # Errors
    /// `NotFound` when no table lies there or it has no such version, `AlreadyExists` when the name is
    /// taken, `Denied` for a place outside of the lake.
    #[boxed]
    pub async fn clone_table(&self, id: &TableId, source: &str, at: &At) -> Result<Cloned> {
        let source = self.place_in_lake(source)?;
        let entry = self.catalog.by_location(&source).await?;
        let entry =
            entry.ok_or_else(|| Error::not_found(format!("no table lies at `{source}`")))?;
        let _one = self.cloning.lock().await;
        if self.find_table(id).await?.is_some() {
            let message = format!("table `{id}` already exists");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        // It keeps version and folder until the record does.
        let snapshot = self.handle(entry.clone()).snapshot(None, at).await?;
        let location = self.free_location(id).await?;
        let _inside = self.creators.enter(&location);
        let system = &self.shared.system;
        let uid = uuid::Uuid::now_v7().simple().to_string();
        let path = format!("{}/{uid}.json", folder_of(&entry.uid));
        let record = Record {
            format: FORMAT,
            location: location.clone(),
            version: snapshot.version(),
            created_at_ms: self.shared.clock.now_ms(),
        };
        system.create(&path, encode(&record)?).await?;
        let made = self.clone_version(&snapshot.dataset, &location, snapshot.version()).await;
        let version = match made {
            Ok(version) => version,
            Err(error) => {
                // What may have been made all the same keeps its record.
                if !self.holds_dataset(&location).await.unwrap_or(true) {
                    system.delete(&path).await?;
                }
                return Err(error);
            }
        };
        match self.catalog.insert(id, Entry { location: location.clone(), uid }).await {
            Ok(()) => Ok(Cloned { location, version }),
            Err(error) => {
                // Somebody adopted it by its name, or took the name; a folder without one is none of a table.
                let named = self.catalog.get(id).await?;
                if named.is_some_and(|named| named.location == location) {
                    return Ok(Cloned { location, version });
                }
                self.delete_below(&location).await?;
                system.delete(&path).await?;
                Err(error)
            }
        }
    }

    /// Commits the first version of a clone.
    async fn clone_version(
        &self,
        source: &lance::Dataset,
        location: &str,
        version: u64,
    ) -> Result<u64> {
        let root = &self.shared.root;
        let base = root.path(location);
        if let Some(folder) = root.folder_of(&base)? {
            let versions = folder.join("_versions");
            tokio::task::spawn_blocking(move || create_folder_durably(&versions)).await.map_err(
                |error| Error::internal("the task that makes a folder failed").with_source(error),
            )??;
        }
        let operation = Operation::Clone {
            is_shallow: true,
            ref_name: None,
            ref_version: version,
            ref_path: source.branch_location().uri,
            branch_name: None,
        };
        let uri = root.uri_of(location);
        let made = CommitBuilder::new(WriteDestination::Uri(&uri))
            .with_store_params(root.store_params())
            .with_session(Arc::clone(root.session()))
            .with_commit_handler(Arc::new(DurableCommitHandler::default()))
            .with_skip_auto_cleanup(true)
            .execute(Transaction::new(version, operation, None))
            .await
            .map_err(from_lance)?;
        sync_versions(&self.shared, &base).await?;
        Ok(made.version().version)
    }

    /// Whether clones share files of a table.
    pub(crate) async fn has_clones(&self, uid: &str) -> Result<bool> {
        Ok(!self.shared.system.list(&folder_of(uid)).await?.is_empty())
    }

    /// Forgets clones whose folder is gone: the one at `location`, or all that are found.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; what is left is forgotten later.
    pub(crate) async fn forget_clones(&self, location: Option<&str>) -> Result<()> {
        let system = &self.shared.system;
        let now_ms = self.shared.clock.now_ms();
        for object in system.list(FOLDER).await? {
            let Some(bytes) = system.get(&object.path).await? else { continue };
            let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { continue };
            let is_gone = match location {
                Some(location) => record.location == location,
                None => {
                    now_ms.saturating_sub(record.created_at_ms) >= ORPHAN_MS
                        && !self.creators.are_in(&record.location)
                        && !self.holds_dataset(&record.location).await?
                }
            };
            if is_gone {
                system.delete(&object.path).await?;
            }
        }
        Ok(())
    }
}

impl Table {
    /// Where the clones of the table lie, and the versions of main that they share.
    ///
    /// # Errors
    /// `Corrupt` for a record that cannot be read; who cleans versions must not go on then.
    pub(crate) async fn clone_versions(&self) -> Result<Vec<(String, u64)>> {
        let mut clones = Vec::new();
        for object in self.shared.system.list(&folder_of(self.uid())).await? {
            let Some(bytes) = self.shared.system.get(&object.path).await? else { continue };
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
                let message = format!("the record `{}` of a clone is damaged", object.path);
                Error::new(ErrorKind::Corrupt, message).with_source(error)
            })?;
            clones.push((record.location, record.version));
        }
        Ok(clones)
    }
}

/// Where the records of a table's clones lie, below `_lakebed/`.
pub(crate) fn folder_of(uid: &str) -> String {
    format!("{FOLDER}/{uid}")
}

fn encode(record: &Record) -> Result<Bytes> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|error| Error::internal("the record of a clone").with_source(error))
}
