//! Branches of a table: a line of versions of its own that begins with a version of another.
//!
//! | to | look in |
//! | --- | --- |
//! | create and list | here |
//! | delete | `delete.rs` |
//! | tell what a branch and its parent changed since it began | `side.rs`, `divergence.rs` |
//! | take what a branch changed into its parent | `merge.rs`, `patch.rs` |
//!
//! Two things make a branch: its folder `tree/<name>/` with a first manifest, which names the files of
//! the version that it begins with, and then its record `_refs/branches/<name>.json`. It is there when
//! the record is. What lies in a folder without one is left of a branch that was deleted, or was never
//! finished; whoever creates the branch takes it away first.

mod delete;
mod divergence;
mod merge;
mod patch;
mod side;

use std::collections::HashMap;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use chrono::{DateTime, Utc};
use lakebed_core::{BranchName, Error, ErrorKind, Result, Subject};
use lance::Dataset;
use lance::dataset::refs::{BranchContents, BranchIdentifier, branch_contents_path};
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{CommitBuilder, WriteDestination};
use object_store::path::Path;
use object_store::{PutMode, PutOptions};

use crate::durable::{DurableCommitHandler, create_folder_durably};
use crate::lance_error::{from_lance, from_object_store};
use crate::table::{Branch, Table};

pub(crate) use delete::branch_folders;
pub use divergence::{
    BranchConflict, BranchDiff, ColumnChange, ConflictKind, RowChange, RowCounts,
};
pub(crate) use merge::note_merge;
pub use merge::{BranchMerge, MergeSides, MergedBranch};

/// A branch in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchEntry {
    /// Its name.
    pub name: String,
    /// The branch that it began on; main when absent.
    pub parent: Option<String>,
    /// The version of the parent that it began with.
    pub parent_version: u64,
    /// When it was created, to the second.
    pub created_at: DateTime<Utc>,
    /// The size of the parent version's manifest in bytes.
    pub manifest_bytes: u64,
}

impl Table {
    /// Creates a branch that begins with a version of another, the newest where none is given. Returns the
    /// number of its first version, which is that one's.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `NotFound` for the branch or version that it is to begin
    /// with, `Conflict` while something of a deleted branch of that name is still read, `CommitUnknown`
    /// when nobody knows whether it was made.
    #[boxed]
    pub async fn create_branch(
        &self,
        name: &BranchName,
        from: Option<&str>,
        version: Option<u64>,
    ) -> Result<u64> {
        let source = self.branch(from).await?;
        let _led = source.lead_surely().await?;
        let _one = self.branching.lock().await;
        let latest = source.latest().await?;
        let version = version.unwrap_or(latest.version().version);
        // Until the record is there, which keeps it from then on.
        let _pin = self.pin(source.name.as_deref(), version)?;
        let parent = match &source.name {
            None => BranchIdentifier::main(),
            Some(parent) => record_of(&latest, parent)
                .await?
                .map(|record| record.identifier)
                .ok_or_else(|| {
                    Error::not_found(format!("branch `{parent}` was deleted"))
                        .about(Subject::Branch)
                })?,
        };
        if record_of(&latest, name.as_str()).await?.is_some() {
            return Err(already_exists(name));
        }
        self.clear_remains(name).await?;
        let made = self.clone_version(&source, &latest, name, version).await?;
        let contents = BranchContents {
            parent_branch: source.name.clone(),
            identifier: BranchIdentifier::new(&parent, version),
            parent_version: version,
            create_at: u64::try_from(self.shared.clock.now_ms() / 1_000).unwrap_or(0),
            manifest_size: made.manifest_location().size.unwrap_or(0) as usize,
            metadata: HashMap::new(),
        };
        self.put_record(&latest, name, &contents).await?;
        Ok(version)
    }

    /// The branches of the table but main, sorted by name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_branches(&self) -> Result<Vec<BranchEntry>> {
        let latest = self.branch(None).await?.latest().await?;
        let records = listed_branches(&latest).await?;
        let mut entries: Vec<BranchEntry> = records
            .into_iter()
            .map(|(name, record)| BranchEntry {
                name,
                parent: record.parent_branch,
                parent_version: record.parent_version,
                created_at: i64::try_from(record.create_at)
                    .ok()
                    .and_then(|at| DateTime::from_timestamp(at, 0))
                    .unwrap_or_default(),
                manifest_bytes: record.manifest_size as u64,
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The first manifest of a branch.
    async fn clone_version(
        &self,
        source: &Arc<Branch>,
        latest: &Dataset,
        name: &BranchName,
        version: u64,
    ) -> Result<Dataset> {
        let from = latest.branch_location();
        let to = from.find_branch(Some(name.as_str())).map_err(from_lance)?;
        if let Some(folder) = self.shared.root.folder_of(&to.path)? {
            durably(folder.join("_versions")).await?;
        }
        let operation = Operation::Clone {
            is_shallow: true,
            ref_name: source.name.clone(),
            ref_version: version,
            ref_path: from.uri,
            branch_name: Some(name.to_string()),
        };
        let handler = DurableCommitHandler::default();
        let params = self.shared.root.store_params();
        CommitBuilder::new(WriteDestination::Uri(&to.uri))
            .with_store_params(params)
            .with_session(Arc::clone(self.shared.root.session()))
            .with_commit_handler(Arc::new(handler))
            .with_skip_auto_cleanup(true)
            .execute(Transaction::new(version, operation, None))
            .await
            .map_err(|error| match from_lance(error) {
                error if error.kind() == ErrorKind::NotFound => {
                    let message = format!("version {version} does not exist");
                    Error::not_found(message).about(Subject::Version).with_source(error)
                }
                error => error,
            })
    }

    async fn put_record(
        &self,
        latest: &Dataset,
        name: &BranchName,
        contents: &BranchContents,
    ) -> Result<()> {
        let path = record_path(latest, name.as_str())?;
        if let Some(file) = self.shared.root.folder_of(&path)?
            && let Some(folder) = file.parent()
        {
            durably(folder.to_owned()).await?;
        }
        let bytes = serde_json::to_vec_pretty(contents)
            .map_err(|error| Error::internal("the record of a branch").with_source(error))?;
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let Err(error) = self.shared.root.store().put_opts(&path, bytes.into(), options).await
        else {
            return Ok(());
        };
        // A put that a bucket did without saying so is sent again and then meets itself.
        match record_of(latest, name.as_str()).await {
            Ok(Some(found)) if found.identifier == contents.identifier => Ok(()),
            Ok(Some(_)) => Err(already_exists(name)),
            Ok(None) => Err(from_object_store(error, "the record of a branch")),
            Err(_) => {
                let message = format!("whether branch `{name}` was made is not known");
                Err(Error::new(ErrorKind::CommitUnknown, message).with_source(error))
            }
        }
    }
}

async fn durably(folder: std::path::PathBuf) -> Result<()> {
    tokio::task::spawn_blocking(move || create_folder_durably(&folder)).await.map_err(|error| {
        Error::internal("the task that makes a folder failed").with_source(error)
    })?
}

fn already_exists(name: &BranchName) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("branch `{name}` already exists"))
        .about(Subject::Branch)
}

/// Where the record of a branch lies.
fn record_path(dataset: &Dataset, name: &str) -> Result<Path> {
    let main = dataset.branch_location().find_branch(None).map_err(from_lance)?;
    Ok(branch_contents_path(&main.path, name))
}

/// What is recorded of a branch, where it is there.
pub(crate) async fn record_of(dataset: &Dataset, name: &str) -> Result<Option<BranchContents>> {
    match dataset.branches().get(name).await.map_err(from_lance) {
        Ok(record) => Ok(Some(record)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The branches of a data set by their names. Lance lists them and then reads each, and fails where one
/// was deleted in between.
pub(crate) async fn listed_branches(dataset: &Dataset) -> Result<HashMap<String, BranchContents>> {
    const TRIES_MAX: usize = 20;
    let mut tries = 1;
    loop {
        match dataset.list_branches().await.map_err(from_lance) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES_MAX => tries += 1,
            listed => return listed,
        }
    }
}
