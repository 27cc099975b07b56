//! Cleaning: old versions and the files that only they use are deleted.
//!
//! ```text
//!   expired versions ─► doomed: nobody gets them any more ─► what tags, branches and pins keep is let go
//!        │
//!        ▼
//!   names in all manifests of all branches ─► files of doomed versions that no other version names
//!        │                                                  and old files that nobody names
//!        ▼
//!   journal ─► manifests, synced ─► files ─► journal deleted
//! ```
//!
//! Which versions are expired is decided by whoever calls. This module makes sure that nothing is deleted
//! that somebody may still need:
//!
//! - A version that a reader, a ticket, a tag, a branch, a cursor or a clone needs stays, whoever asks.
//! - A file goes when a version that is deleted with it names it and no other version of any branch does,
//!   or when no version names it and it is older than anything that could still be under way.
//! - Manifests go before files, so that no version is ever seen whose files are missing. When the process
//!   ends in between, the journal tells the next cleaning which files are left; it deletes those that
//!   no version names.
//! - What is not known to be a table's file is never touched.

mod journal;
mod purge;
mod references;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use self::journal::{Journals, Left};
pub use self::purge::PurgePlan;
pub(crate) use self::purge::purges_folder;
pub(crate) use self::references::version_of;
use self::references::{FileKind, Names, StoredFile, TableFiles, names_of, other_branches};
use crate::branches::branch_folders;
use crate::lance_error::{from_lance, from_object_store};
use crate::pins::PinnedVersion;
use crate::servers::{DoomNote, lost};
use crate::table::{Branch, Table};
use crate::tag::listed_tags;
use crate::version::{version_at, version_numbers};

/// Files that are deleted at the same time.
const DELETES_AT_ONCE: usize = 16;

/// What is known of the versions of a branch that decides which may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionFacts {
    /// Their numbers, ascending; the last is the newest.
    pub numbers: Vec<u64>,
    /// Versions that somebody needs, with who it is in words.
    pub kept: BTreeMap<u64, String>,
}

/// What a cleaning deleted, or would delete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// Versions.
    pub versions: Vec<u64>,
    /// Expired versions that stay, with who needs them in words.
    pub kept: BTreeMap<u64, String>,
    /// Files by what they are: `manifest`, `data`, `blob`, `index`, `deletion`, `transaction`.
    pub files: BTreeMap<&'static str, u64>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many of the files no version named: what writes left that never ended.
    pub orphans: u64,
    /// Files that no version names and that stay, because a write may be under way with them.
    pub young: u64,
}

/// What may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CleanRule {
    /// Versions that are expired.
    pub expired: Vec<u64>,
    /// Files that no version names go when they were last written before this time, in milliseconds since
    /// the Unix epoch.
    pub orphans_before_ms: i64,
    /// Data files that no version names yet, by their names without the ending: of parts of writes.
    pub spared: BTreeSet<String>,
    /// Whether the version that a branch began with may go, too, so that it cannot be compared any more.
    pub forgets_beginnings: bool,
    /// Whether to say only what would be deleted.
    pub is_dry_run: bool,
}

impl Table {
    /// The versions of a branch, and who needs which of them.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn retention_facts(&self, branch: Option<&str>) -> Result<RetentionFacts> {
        let branch = self.branch(branch).await?;
        let latest = branch.latest().await?;
        let numbers = version_numbers(&latest).await?;
        let kept = self.kept_versions(&branch, &latest, true).await?;
        Ok(RetentionFacts { numbers, kept })
    }

    /// The newest version of a branch that was committed at or before a time; nothing when all are
    /// younger.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn newest_version_at(
        &self,
        branch: Option<&str>,
        time: DateTime<Utc>,
    ) -> Result<Option<u64>> {
        let latest = self.branch(branch).await?.latest().await?;
        match version_at(&latest, time).await {
            Ok(version) => Ok(Some(version)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The branches of the table; main is the one without a name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn branch_names(&self) -> Result<Vec<Option<String>>> {
        let latest = self.branch(None).await?.latest().await?;
        let branches = latest.list_branches().await.map_err(from_lance)?;
        let mut names: Vec<Option<String>> = branches.into_keys().map(Some).collect();
        names.push(None);
        names.sort();
        Ok(names)
    }

    /// The settings of a table that begin with `prefix`, without it: metadata of its newest schema.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn settings(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let latest = self.branch(None).await?.latest().await?;
        let metadata = latest.schema().metadata.iter();
        Ok(metadata
            .filter_map(|(name, value)| {
                Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))
            })
            .collect())
    }

    /// Deletes expired versions of a branch and what nobody needs without them. The newest version stays
    /// in any case.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer: what is left is
    /// deleted by the next cleaning.
    #[boxed]
    pub async fn clean(&self, branch: Option<&str>, rule: CleanRule) -> Result<Cleaned> {
        let branch = self.branch(branch).await?;
        let _pin = branch.hold().await?;
        let _one = branch.cleaning.lock().await;
        self.clean_alone(&branch, rule).await
    }

    #[boxed]
    async fn clean_alone(&self, branch: &Arc<Branch>, rule: CleanRule) -> Result<Cleaned> {
        let latest = branch.latest().await?;
        let newest = latest.version().version;
        let existing: BTreeSet<u64> = version_numbers(&latest).await?.into_iter().collect();
        let expired = rule.expired.iter().copied();
        let expired: Vec<u64> =
            expired.filter(|version| *version < newest && existing.contains(version)).collect();
        let pinned = expired.iter().map(|version| PinnedVersion {
            location: self.entry.location.clone(),
            branch: branch.name.clone(),
            version: *version,
        });
        let (pins, now_ms) = (&self.shared.pins, self.shared.clock.now_ms());
        let doomed;
        let mut versions = match rule.is_dry_run {
            true => pins.free_versions(pinned, now_ms),
            false => {
                // From here on nobody begins to read, tag, branch or restore one of them.
                doomed = pins.doom_versions(pinned, now_ms);
                doomed.numbers()
            }
        };
        let agreed = match self.shared.servers.get() {
            Some(servers) if !rule.is_dry_run && !versions.is_empty() => {
                let note = DoomNote {
                    location: self.entry.location.clone(),
                    branch: branch.name.clone(),
                    versions: Some(versions.clone()),
                };
                let agreed = servers.agree(note).await?;
                let held = agreed.held_versions();
                versions.retain(|version| !held.contains(version));
                Some(agreed)
            }
            _ => None,
        };
        // Asked only now: a tag that was made before is seen, and one that would be made after is refused.
        let mut kept = self.kept_versions(branch, &latest, !rule.forgets_beginnings).await?;
        kept.retain(|version, _| expired.contains(version));
        for version in expired.iter().filter(|version| !versions.contains(version)) {
            kept.entry(*version).or_insert_with(|| "a reader or a ticket".to_owned());
        }
        versions.retain(|version| !kept.contains_key(version));
        let journals = Journals::of(&self.shared.system, &self.entry.uid, branch.name.as_deref());
        let left = journals.read().await?;
        let doomed_numbers: BTreeSet<u64> = versions.iter().copied().collect();
        let (gone, stays) = self.names(branch, &latest, &doomed_numbers).await?;

        let base = latest.branch_location().path.clone();
        let files = TableFiles::list(self.shared.root.store(), &base).await?;
        let mut cleaned = Cleaned { versions, kept, ..Cleaned::default() };
        let (mut manifests, mut others) = (Vec::new(), Vec::new());
        for file in files.files {
            let is_gone = match &file.kind {
                FileKind::Manifest(version) => doomed_numbers.contains(version),
                kind if stays.has(kind) => false,
                kind if gone.has(kind) || left.has(kind) => true,
                FileKind::Data(stem) | FileKind::Blob(stem) if rule.spared.contains(stem) => false,
                _ if file.modified_ms < rule.orphans_before_ms => {
                    cleaned.orphans += 1;
                    true
                }
                _ => {
                    cleaned.young += 1;
                    false
                }
            };
            if !is_gone {
                continue;
            }
            *cleaned.files.entry(file.kind.label()).or_default() += 1;
            cleaned.bytes = cleaned.bytes.saturating_add(file.size);
            match file.kind {
                FileKind::Manifest(_) => manifests.push(file),
                _ => others.push(file),
            }
        }
        if rule.is_dry_run {
            return Ok(cleaned);
        }
        if !manifests.is_empty() {
            // The transactions that hold write ids go, too.
            branch.write_ids().await?.checkpoint().await?;
        }
        let journal = journals.write(&others).await?;
        if agreed.is_some() && !branch.still_leads().await? {
            // Whoever leads now may have let somebody name what was agreed on before.
            journals.delete(journal, &Left::default()).await?;
            return Err(lost());
        }
        self.delete(&manifests).await?;
        if !manifests.is_empty() {
            self.sync_versions_folder(&base).await?;
        }
        self.delete(&others).await?;
        self.delete_empty_folders(&base, &others).await;
        journals.delete(journal, &left).await?;
        Ok(cleaned)
    }

    /// The names in the manifests of doomed versions, and those in all others of all branches.
    async fn names(
        &self,
        branch: &Branch,
        latest: &Dataset,
        doomed: &BTreeSet<u64>,
    ) -> Result<(Names, Names)> {
        let own = latest.branch_location();
        let (gone, mut stays) = names_of(latest, &own.path, Some(doomed)).await?;
        // One that was deleted and is still read, too.
        let main = own.find_branch(None).map_err(from_lance)?;
        let folders = branch_folders(self.shared.root.store().as_ref(), &main.path).await?;
        let mut others: BTreeSet<Option<String>> = folders.into_keys().map(Some).collect();
        others.extend(other_branches(latest, branch.name.as_deref()).await?);
        others.remove(&branch.name);
        for other in others {
            let location = own.find_branch(other.as_deref()).map_err(from_lance)?;
            let (_, names) = names_of(latest, &location.path, None).await?;
            stays.extend(names);
        }
        Ok((gone, stays))
    }

    /// Versions of a branch that tags, branches, cursors and clones need.
    async fn kept_versions(
        &self,
        branch: &Branch,
        latest: &Dataset,
        keeps_beginning: bool,
    ) -> Result<BTreeMap<u64, String>> {
        let mut kept: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (name, tag) in listed_tags(latest).await? {
            if tag.branch == branch.name {
                kept.entry(tag.version).or_default().push(format!("tag `{name}`"));
            }
        }
        for (name, contents) in latest.list_branches().await.map_err(from_lance)? {
            if contents.parent_branch == branch.name {
                kept.entry(contents.parent_version).or_default().push(format!("branch `{name}`"));
            }
            if keeps_beginning && Some(&name) == branch.name.as_ref() {
                // What it changed since it began is told from it.
                let by = "the beginning of the branch".to_owned();
                kept.entry(contents.parent_version).or_default().push(by);
            }
        }
        for (name, of, version) in self.cursor_versions().await? {
            if of == branch.name {
                kept.entry(version).or_default().push(format!("cursor `{name}`"));
            }
        }
        if branch.name.is_none() {
            for (location, version) in self.clone_versions().await? {
                kept.entry(version).or_default().push(format!("the clone in `{location}`"));
            }
        }
        Ok(kept
            .into_iter()
            .map(|(version, mut by)| {
                by.sort();
                (version, by.join(", "))
            })
            .collect())
    }

    async fn delete(&self, files: &[StoredFile]) -> Result<()> {
        let paths: Vec<Path> = files.iter().map(|file| file.path.clone()).collect();
        let deletions = paths.into_iter().map(|path| {
            let store = Arc::clone(self.shared.root.store());
            async move {
                match store.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => {
                        Err(from_object_store(error, "deletion of an old version's file"))
                    }
                }
            }
        });
        futures::stream::iter(deletions).buffer_unordered(DELETES_AT_ONCE).try_collect().await
    }

    /// Makes sure that deleted manifests do not come back after a power failure, when their files are
    /// gone.
    async fn sync_versions_folder(&self, base: &Path) -> Result<()> {
        let versions = base.clone().join("_versions");
        let Some(folder) = self.shared.root.folder_of(&versions)? else { return Ok(()) };
        tokio::task::spawn_blocking(move || crate::durable::sync_file(&folder))
            .await
            .map_err(|error| Error::internal("sync task failed").with_source(error))?
    }

    /// Takes away folders of blobs and indexes that nothing is left in, on a local lake.
    async fn delete_empty_folders(&self, base: &Path, files: &[StoredFile]) {
        let depth = base.parts().count();
        let folders: BTreeSet<Path> = files
            .iter()
            .filter_map(|file| {
                let parts: Vec<_> = file.path.parts().collect();
                // Not `data` itself, say, which a writer may be about to use.
                (parts.len() > depth + 2).then(|| Path::from_iter(parts[..depth + 2].to_vec()))
            })
            .collect();
        for folder in folders {
            if let Ok(Some(folder)) = self.shared.root.folder_of(&folder) {
                // It fails where something is left in it, as it should.
                let _ = tokio::fs::remove_dir(folder).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
