//! Delete a branch: first its record, and then its folder once nobody reads from it.
//!
//! Where the folder is still needed, or the deletion is cut off, it stays until a branch of that name is
//! created, or until the next pass of maintenance that finds it free.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{BranchName, Error, ErrorKind, Result, Subject};
use lance::Dataset;
use lance::dataset::refs::BranchContents;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::{listed_branches, record_path};
use crate::lance_error::{from_lance, from_object_store};
use crate::pins::PinnedVersion;
use crate::servers::DoomNote;
use crate::table::Table;
use crate::tag::listed_tags;

/// How long a change of the branch may keep it from being deleted.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// How young a folder without a record may be: another tool may be making the branch.
const REMAINS_AGE_MS_MIN: i64 = 10_000;

impl Table {
    /// Deletes a branch with all versions that are only its own.
    ///
    /// # Errors
    /// `NotFound` naming the nearest branches; `Conflict` naming the branches that began on it and the
    /// tags that name a version of it, `Busy` while it is being changed.
    #[boxed]
    pub async fn delete_branch(&self, name: &BranchName) -> Result<()> {
        let main = self.branch(None).await?;
        let _led = main.lead_surely().await?;
        let _one = self.branching.lock().await;
        let latest = main.latest().await?;
        let all = listed_branches(&latest).await?;
        if !all.contains_key(name.as_str()) {
            return Err(self.unknown_branch(name.as_str()).await);
        }
        let mut needed: Vec<String> = all
            .iter()
            .filter(|(_, other)| other.parent_branch.as_deref() == Some(name.as_str()))
            .map(|(other, _)| format!("branch `{other}`"))
            .collect();
        for (tag, contents) in listed_tags(&latest).await? {
            if contents.branch.as_deref() == Some(name.as_str()) {
                needed.push(format!("tag `{tag}`"));
            }
        }
        for (cursor, of, _) in self.cursor_versions().await? {
            if of.as_deref() == Some(name.as_str()) {
                needed.push(format!("cursor `{cursor}`"));
            }
        }
        if !needed.is_empty() {
            needed.sort();
            let message =
                format!("branch `{name}` is needed by {}; delete them first", needed.join(", "));
            return Err(Error::new(ErrorKind::Conflict, message).about(Subject::Branch));
        }
        // A branch whose folder is gone can be deleted, too.
        let quiet = match self.branch(Some(name.as_str())).await {
            Ok(branch) => Some(branch.set_deleted(QUIET_MAX).await?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let path = record_path(&latest, name.as_str())?;
        match self.shared.root.store().delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                // Nobody knows whether it is gone; the next look tells.
                self.forget_branch(name.as_str()).await;
                return Err(from_object_store(error, "deletion of a branch's record"));
            }
        }
        self.sync_folder_of(&path).await?;
        drop(quiet);
        self.forget_branch(name.as_str()).await;
        // The branch is gone by now.
        if let Err(error) = self.delete_remains(&latest, name.as_str()).await {
            tracing::info!(error = %error.report(), "a deleted branch's folder stays for now");
        }
        Ok(())
    }

    /// Makes sure that nothing lies where a new branch is to be.
    pub(super) async fn clear_remains(&self, name: &BranchName) -> Result<()> {
        let latest = self.branch(None).await?.latest().await?;
        let folder = branch_folder(&latest, name.as_str())?;
        let Some(newest_ms) = self.newest_file_ms(&folder).await? else { return Ok(()) };
        let busy = |why: &str| {
            let message = format!("branch `{name}` cannot be created yet: {why}");
            Error::new(ErrorKind::Conflict, message).about(Subject::Branch)
        };
        let is_ours = self.deleted_here.lock().await.contains(name.as_str());
        if !is_ours && newest_ms > self.shared.clock.now_ms() - REMAINS_AGE_MS_MIN {
            return Err(busy("another client is making it, or was cut off a moment ago"));
        }
        match self.delete_remains(&latest, name.as_str()).await? {
            true => Ok(()),
            false => Err(busy("one of that name was deleted and is still read")),
        }
    }

    /// Deletes the folder of a branch without a record, if nobody needs it; says whether it is gone.
    async fn delete_remains(&self, latest: &Dataset, name: &str) -> Result<bool> {
        self.deleted_here.lock().await.insert(name.to_owned());
        let folder = branch_folder(latest, name)?;
        let numbers = self.version_numbers_in(&folder).await?;
        let pinned = numbers.iter().map(|version| PinnedVersion {
            location: self.entry.location.clone(),
            branch: Some(name.to_owned()),
            version: *version,
        });
        let doomed = self.shared.pins.doom_versions(pinned, self.shared.clock.now_ms());
        if doomed.numbers().len() < numbers.len() {
            return Ok(false);
        }
        let agreed = match self.shared.servers.get() {
            Some(servers) if !numbers.is_empty() => {
                let note = DoomNote {
                    location: self.entry.location.clone(),
                    branch: Some(name.to_owned()),
                    versions: Some(numbers),
                };
                Some(servers.agree(note).await?)
            }
            _ => None,
        };
        if agreed.as_ref().is_some_and(|agreed| !agreed.held.is_empty()) {
            return Ok(false);
        }
        let main = self.branch(None).await?;
        if !main.still_leads().await? {
            return Ok(false);
        }
        let store = self.shared.root.store();
        let paths = own_files(&folder, store.list(Some(&folder)).map_ok(|meta| meta.location));
        store
            .delete_stream(paths.boxed())
            .try_for_each(|_| futures::future::ready(Ok(())))
            .await
            .map_err(|error| from_object_store(error, "deletion of a branch's folder"))?;
        let write_ids = format!("write_ids/{}/{name}", self.entry.uid);
        for object in self.shared.system.list(&write_ids).await? {
            let below = object.path.strip_prefix(&format!("{write_ids}/"));
            // Those of a branch whose name goes on are none of ours.
            if below.is_some_and(|rest| !rest.contains('/')) {
                self.shared.system.delete(&object.path).await?;
            }
        }
        if let Some(local) = self.shared.root.folder_of(&folder)? {
            let above = name.split('/').count() - 1;
            let removed = tokio::task::spawn_blocking(move || remove_empty(&local, above)).await;
            removed
                .map_err(|error| Error::internal("a clean-up task failed").with_source(error))?;
        }
        self.deleted_here.lock().await.remove(name);
        Ok(true)
    }

    /// Deletes the folders of branches that were deleted and are not read any more, and with `before_ms`
    /// those without a record in which nothing was written since; says how many.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; what is left is tried again next time.
    #[boxed]
    pub async fn finish_branch_deletions(&self, before_ms: Option<i64>) -> Result<usize> {
        let mut names: BTreeSet<String> = self.deleted_here.lock().await.clone();
        if let Some(before_ms) = before_ms {
            // Whoever asks, another tool may be making one at this moment.
            let young_ms = self.shared.clock.now_ms() - REMAINS_AGE_MS_MIN;
            let before_ms = before_ms.min(young_ms);
            names.extend(self.forsaken_folders(before_ms).await?);
        }
        let mut deleted = 0;
        for name in names {
            let _one = self.branching.lock().await;
            let latest = self.branch(None).await?.latest().await?;
            match super::record_of(&latest, &name).await? {
                Some(BranchContents { .. }) => {
                    self.deleted_here.lock().await.remove(&name);
                }
                None => deleted += usize::from(self.delete_remains(&latest, &name).await?),
            }
        }
        Ok(deleted)
    }

    /// Branches that this process deleted and whose folders may still be there.
    pub async fn unfinished_branches(&self) -> Vec<String> {
        self.deleted_here.lock().await.iter().cloned().collect()
    }

    /// The branches whose folders are there, and not their records, with nothing young in them.
    async fn forsaken_folders(&self, before_ms: i64) -> Result<Vec<String>> {
        let latest = self.branch(None).await?.latest().await?;
        let all = listed_branches(&latest).await?;
        let main = latest.branch_location().find_branch(None).map_err(from_lance)?;
        let mut newest = branch_folders(self.shared.root.store().as_ref(), &main.path).await?;
        newest.retain(|name, at_ms| !all.contains_key(name) && *at_ms < before_ms);
        Ok(newest.into_keys().collect())
    }

    async fn version_numbers_in(&self, folder: &Path) -> Result<Vec<u64>> {
        let versions = folder.clone().join("_versions");
        let mut listing = self.shared.root.store().list(Some(&versions));
        let mut numbers = Vec::new();
        let failed = |error| from_object_store(error, "listing of a branch's versions");
        while let Some(object) = listing.try_next().await.map_err(failed)? {
            let name = object.location.filename().unwrap_or_default();
            numbers.extend(crate::cleanup::version_of(name));
        }
        Ok(numbers)
    }

    async fn newest_file_ms(&self, folder: &Path) -> Result<Option<i64>> {
        let store = self.shared.root.store();
        let mut listing = store.list(Some(folder));
        let depth = folder.parts().count();
        let mut newest = None;
        let failed = |error| from_object_store(error, "listing of a branch's folder");
        while let Some(object) = listing.try_next().await.map_err(failed)? {
            if is_own(&object.location, depth) {
                newest = newest.max(Some(object.last_modified.timestamp_millis()));
            }
        }
        Ok(newest)
    }

    async fn sync_folder_of(&self, path: &Path) -> Result<()> {
        let Some(file) = self.shared.root.folder_of(path)? else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || {
            file.parent().map_or(Ok(()), crate::durable::sync_file)
        });
        synced.await.map_err(|error| Error::internal("sync task failed").with_source(error))?
    }
}

/// The branches that have a folder below that of a table, whether they are there or were deleted and are
/// still read, and when something was written into it last.
pub(crate) async fn branch_folders(
    store: &dyn ObjectStore,
    table: &Path,
) -> Result<BTreeMap<String, i64>> {
    let tree = table.clone().join("tree");
    let depth = tree.parts().count();
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    let mut listing = store.list(Some(&tree));
    let failed = |error| from_object_store(error, "listing of the branches' folders");
    while let Some(object) = listing.try_next().await.map_err(failed)? {
        let parts: Vec<_> = object.location.parts().skip(depth).collect();
        let is_folder = |part: &str| part.starts_with('_') || part == "data";
        let end = parts.iter().position(|part| is_folder(part.as_ref()));
        let Some(end) = end.filter(|end| *end > 0) else { continue };
        let name: Vec<&str> = parts[..end].iter().map(|part| part.as_ref()).collect();
        let at_ms = newest.entry(name.join("/")).or_default();
        *at_ms = (*at_ms).max(object.last_modified.timestamp_millis());
    }
    Ok(newest)
}

fn branch_folder(dataset: &Dataset, name: &str) -> Result<Path> {
    Ok(dataset.branch_location().find_branch(Some(name)).map_err(from_lance)?.path)
}

/// Whether a path is of the branch whose folder has `depth` parts: the folders of other branches may lie
/// below it.
fn is_own(path: &Path, depth: usize) -> bool {
    let first = path.parts().nth(depth);
    first.is_some_and(|part| part.as_ref().starts_with('_') || part.as_ref() == "data")
}

fn own_files(
    folder: &Path,
    paths: impl futures::Stream<Item = object_store::Result<Path>> + Send + 'static,
) -> impl futures::Stream<Item = object_store::Result<Path>> + Send + 'static {
    let depth = folder.parts().count();
    paths.try_filter(move |path| std::future::ready(is_own(path, depth)))
}

/// Removes folders that have no files, from the innermost to `folder` itself and so many above it.
fn remove_empty(folder: &std::path::Path, above: usize) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path(), 0);
        }
    }
    for folder in folder.ancestors().take(above + 1) {
        // One that is not empty stays.
        let _ = std::fs::remove_dir(folder);
    }
}
