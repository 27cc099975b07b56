//! What purging needs to know of a branch, and what it does there besides rewriting.
//!
//! After rows were deleted their values are still in the data files of the newest version, in its indexes,
//! and in whatever only older versions name. Purging (in the crate above) rewrites the first, builds the
//! second anew and deletes the third, in this order. What was built anew is noted, so that a second purge
//! does not build it again:
//!
//! `_lakebed/purges/<table uid>/<branch>.json` says of which indexes it is known, as of which version, that
//! they hold values of no deleted row.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow_schema::DataType;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::index::DatasetIndexExt as _;
use lance_core::datatypes::Field;
use lance_table::format::{Fragment, IndexMetadata};
use lance_table::system_index::is_system_index;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::references::{FileKind, Names, names_of, other_branches};
use super::{CleanRule, Cleaned};
use crate::compact::FragmentStats;
use crate::lance_error::{from_io, from_lance};
use crate::multipart::files_of_parts;
use crate::snapshot::{At, Snapshot};
use crate::table::{Branch, Table};
use crate::tag::listed_tags;
use crate::version::version_numbers;

const FORMAT: u32 = 1;
/// What lance calls a column that a newer file of its fragment answers for.
const RETIRED: i32 = -2;
/// Versions whose transactions are read to find out that nothing was deleted since an index was built.
const VERSIONS_READ_MAX: u64 = 1_000;
/// How exactly times of files and the clock go together, in milliseconds.
const CLOCK_SLACK_MS: i64 = 2_000;

/// The folder of a table's notes, below `_lakebed/`.
pub(crate) fn purges_folder(uid: &str) -> String {
    format!("purges/{uid}")
}

/// What is left of deleted values in a branch, and who keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgePlan {
    /// The newest version.
    pub version: u64,
    /// Its fragments with deleted rows, or with columns that are replaced or dropped.
    pub fragments: Vec<FragmentStats>,
    /// The data files of these that hold what they do not show.
    pub files: BTreeSet<String>,
    /// Its indexes that may hold values of deleted rows, by their names.
    pub indexes: Vec<String>,
    /// Whether its record of what it did may hold values, such as the predicate of a deletion.
    pub tells_values: bool,
    /// Older versions.
    pub versions: Vec<u64>,
    /// Who keeps what would have to go, in words: tags, cursors, branches and clones.
    pub held_by: Vec<String>,
}

/// Which indexes hold no values of deleted rows.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Renewed {
    format: u32,
    /// As of this version.
    version: u64,
    indices: BTreeSet<Uuid>,
}

impl Table {
    /// What a purge of a branch would have to do.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    pub fn purge_plan<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
    ) -> BoxFuture<'a, Result<PurgePlan>> {
        async move {
            let handle = self.branch(branch).await?;
            let newest = handle.latest().await?.version().version;
            let snapshot = self.snapshot(branch, &At::Version(newest)).await?;
            let latest = &snapshot.dataset;
            let numbers = version_numbers(latest).await?;
            let versions: Vec<u64> = numbers.into_iter().filter(|it| *it < newest).collect();
            let files: BTreeSet<String> =
                latest.fragments().iter().flat_map(|it| hiding_files(latest, it)).collect();
            let fragments = fragments_of(&snapshot, &files).await?;
            let stale = self.stale_indices(&handle, latest).await?;
            let indexes: BTreeSet<String> = stale.iter().map(|index| index.name.clone()).collect();
            let mut plan = PurgePlan {
                version: newest,
                fragments,
                files,
                indexes: indexes.into_iter().collect(),
                tells_values: tells_values(latest).await?,
                versions,
                held_by: Vec::new(),
            };
            plan.held_by = self.holders(&handle, latest, &plan, &stale).await?;
            Ok(plan)
        }
        .boxed()
    }

    /// The fragments of the newest version that have one of these data files.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    pub fn fragments_with<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        files: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Result<Vec<FragmentStats>>> {
        async move {
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            fragments_of(&snapshot, files).await
        }
        .boxed()
    }

    /// The newest version, and those of its indexes that may hold values of deleted rows.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    pub fn stale_indexes<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(u64, BTreeSet<String>)>> {
        async move {
            let handle = self.branch(branch).await?;
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            let stale = self.stale_indices(&handle, &snapshot.dataset).await?;
            Ok((snapshot.version(), stale.into_iter().map(|index| index.name).collect()))
        }
        .boxed()
    }

    /// The newest version if what it did can stay on record, or one that changes nothing behind it.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    pub fn settle<'a>(self: &'a Arc<Self>, branch: Option<&'a str>) -> BoxFuture<'a, Result<u64>> {
        async move {
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            match tells_values(&snapshot.dataset).await? {
                false => Ok(snapshot.version()),
                true => self.commit_nothing(branch).await,
            }
        }
        .boxed()
    }

    /// Commits a version that changes nothing, so that what the newest one did can be forgotten.
    #[boxed]
    async fn commit_nothing(&self, branch: Option<&str>) -> Result<u64> {
        let branch = self.branch(branch).await?;
        let _mutation = branch.mutation.lock().await;
        let newest = branch.latest().await?.version().version;
        let operation = Operation::ReserveFragments { num_fragments: 0 };
        let transaction = Transaction::new(newest, operation, None);
        Ok(branch.commit(transaction, Vec::new(), None).await?.version().version)
    }

    /// Notes that the indexes that `version` has hold no values of rows that were deleted by version
    /// `since`: they were built on that or a later one. If no row was deleted in between, by `version`.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    pub fn note_renewed<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        since: u64,
        version: u64,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let snapshot = self.snapshot(branch, &At::Version(version)).await?;
            let indices = snapshot.dataset.load_indices().await.map_err(from_lance)?;
            let indices = indices.iter().map(|index| index.uuid).collect();
            let since = match has_removed_nothing(&snapshot.dataset, since).await? {
                true => version,
                false => since,
            };
            let renewed = Renewed { format: FORMAT, version: since, indices };
            let bytes = serde_json::to_vec(&renewed)
                .map_err(|error| Error::internal("encode a note").with_source(error))?;
            let path = self.renewed_path(branch);
            self.shared.system.put(&path, Bytes::from(bytes)).await
        }
        .boxed()
    }

    /// Deletes all versions of a branch before `version` that nobody needs, what only they name, and what
    /// no version names: on a local lake whatever its age, unless a write may be under way with it; in a
    /// bucket, which other servers and tools may be writing to, what is older than `orphans_before_ms`.
    ///
    /// # Errors
    /// As [`Table::clean`].
    #[boxed]
    pub async fn clean_before(
        &self,
        branch: Option<&str>,
        version: u64,
        orphans_before_ms: i64,
    ) -> Result<Cleaned> {
        let now_ms = self.shared.clock.now_ms();
        let is_local = self.shared.root.local().is_some();
        let orphans_before_ms = match is_local {
            // In this order: a part is noted before its write is over.
            true => {
                let earliest = self.shared.pins.earliest_write_ms(&self.entry.location);
                earliest.unwrap_or(now_ms).min(now_ms).saturating_sub(CLOCK_SLACK_MS)
            }
            false => orphans_before_ms,
        };
        let spared = files_of_parts(&self.shared, &self.entry.uid).await?;
        let facts = self.retention_facts(branch).await?;
        let expired = facts.numbers.into_iter().filter(|number| *number < version).collect();
        let rule = CleanRule {
            expired,
            orphans_before_ms,
            spared,
            forgets_beginnings: true,
            is_dry_run: false,
        };
        let mut cleaned = self.clean(branch, rule).await?;
        if is_local {
            let handle = self.branch(branch).await?;
            let base = handle.current().await.branch_location().path;
            if let Some(folder) = self.shared.root.folder_of(&base)? {
                let deleted = tokio::task::spawn_blocking(move || {
                    delete_half_written(&folder, orphans_before_ms)
                });
                let failed = |error| Error::internal("a task failed").with_source(error);
                let (files, bytes) = deleted.await.map_err(failed)??;
                cleaned.orphans += files;
                cleaned.bytes = cleaned.bytes.saturating_add(bytes);
                if files > 0 {
                    *cleaned.files.entry("half_written").or_default() += files;
                }
            }
        }
        Ok(cleaned)
    }

    fn renewed_path(&self, branch: Option<&str>) -> String {
        let branch = branch.unwrap_or("main");
        format!("{}/{branch}.json", purges_folder(&self.entry.uid))
    }

    /// The segments of indexes of which it is not known that they hold no values of deleted rows.
    async fn stale_indices(&self, branch: &Branch, latest: &Dataset) -> Result<Vec<IndexMetadata>> {
        let indices = latest.load_indices().await.map_err(from_lance)?;
        let own = indices.iter().filter(|index| !is_system_index(index));
        let known = match self.renewed(branch).await? {
            Some(renewed) if has_removed_nothing(latest, renewed.version).await? => renewed.indices,
            _ => BTreeSet::new(),
        };
        Ok(own.filter(|index| !known.contains(&index.uuid)).cloned().collect())
    }

    async fn renewed(&self, branch: &Branch) -> Result<Option<Renewed>> {
        let path = self.renewed_path(branch.name.as_deref());
        let Some(bytes) = self.shared.system.get(&path).await? else { return Ok(None) };
        // What cannot be read is not known.
        let renewed: Option<Renewed> = serde_json::from_slice(&bytes).ok();
        Ok(renewed.filter(|renewed| renewed.format == FORMAT))
    }

    async fn holders(
        &self,
        branch: &Branch,
        latest: &Dataset,
        plan: &PurgePlan,
        stale: &[IndexMetadata],
    ) -> Result<Vec<String>> {
        let newest = plan.version;
        // What is newest now will not be so any more.
        let will_be_old = |version: u64| version < newest || !plan.is_newest_kept();
        let mut held_by = BTreeSet::new();
        for column in latest.schema().fields.iter().filter(|column| has_dictionary(column)) {
            held_by.insert(format!(
                "column `{}` is dictionary-encoded, and a dictionary keeps values that no row has: \
                 change its type first",
                column.name
            ));
        }
        for (name, tag) in listed_tags(latest).await? {
            if tag.branch == branch.name && will_be_old(tag.version) {
                held_by.insert(format!("tag `{name}` names version {}", tag.version));
            }
        }
        for (name, of, version) in self.cursor_versions().await? {
            // One at the newest version can go on once there is another.
            if of == branch.name && version < newest {
                held_by.insert(format!("cursor `{name}` stands at version {version}"));
            }
        }
        if branch.name.is_none() {
            for (location, version) in self.clone_versions().await? {
                if will_be_old(version) {
                    held_by.insert(format!("the clone in `{location}` shares version {version}"));
                }
            }
        }
        for (name, contents) in latest.list_branches().await.map_err(from_lance)? {
            if contents.parent_branch == branch.name && will_be_old(contents.parent_version) {
                let version = contents.parent_version;
                held_by.insert(format!("branch `{name}` began with version {version}"));
            }
        }
        let older: BTreeSet<u64> = plan.versions.iter().copied().collect();
        let own = latest.branch_location();
        let (gone, stays) = names_of(latest, &own.path, Some(&older)).await?;
        let mut bad = gone.without(&stays);
        let mut values = Names::default();
        for file in &plan.files {
            let name = file.rsplit('/').next().unwrap_or(file);
            values.insert(FileKind::Data(name.trim_end_matches(".lance").to_owned()));
        }
        stale.iter().for_each(|it| values.insert(FileKind::Index(it.uuid.to_string())));
        bad.extend(values);
        for other in other_branches(latest, branch.name.as_deref()).await? {
            let location = own.find_branch(other.as_deref()).map_err(from_lance)?;
            let (_, names) = names_of(latest, &location.path, None).await?;
            if names.share(&bad) {
                let name = other.as_deref().unwrap_or("main");
                held_by.insert(format!("branch `{name}` has files with deleted values, too"));
            }
        }
        Ok(held_by.into_iter().collect())
    }
}

impl PurgePlan {
    /// Whether the newest version can stay as it is.
    pub fn is_newest_kept(&self) -> bool {
        self.fragments.is_empty() && self.indexes.is_empty() && !self.tells_values
    }
}

/// The data files of a fragment that hold values which it does not show.
fn hiding_files(dataset: &Dataset, fragment: &Fragment) -> Vec<String> {
    let fields: HashSet<i32> = dataset.schema().field_ids().into_iter().collect();
    let is_hidden = |id: &i32| *id == RETIRED || (*id >= 0 && !fields.contains(id));
    let deletions = fragment.deletion_file.as_ref();
    let hides_rows = deletions.is_some_and(|file| file.num_deleted_rows != Some(0))
        // An overlay, whose values stand in place of others.
        || fragment.referenced_lance_files().count() > fragment.files.len();
    fragment
        .referenced_lance_files()
        .filter(|file| hides_rows || file.fields.iter().any(is_hidden))
        .map(|file| file.path.clone())
        .collect()
}

fn has_dictionary(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Dictionary(..))
        || field.children.iter().any(has_dictionary)
}

/// The fragments of a version that have one of these files.
async fn fragments_of(snapshot: &Snapshot, files: &BTreeSet<String>) -> Result<Vec<FragmentStats>> {
    let all = snapshot.dataset.fragments().iter();
    let ids: HashSet<u64> = all
        .filter(|it| it.referenced_lance_files().any(|file| files.contains(&file.path)))
        .map(|it| it.id)
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut fragments = snapshot.layout().await?.fragments;
    fragments.retain(|fragment| ids.contains(&u64::from(fragment.id)));
    Ok(fragments)
}

/// Whether what the newest version did may be told by values.
async fn tells_values(latest: &Dataset) -> Result<bool> {
    let newest = latest.version().version;
    let read = latest.read_version_transaction(newest).await.map_err(from_lance)?;
    Ok(!read.transaction.is_some_and(|done| {
        matches!(
            done.operation,
            Operation::Append { .. }
                | Operation::Overwrite { .. }
                | Operation::CreateIndex { .. }
                | Operation::Rewrite { .. }
                | Operation::ReserveFragments { .. }
                | Operation::Restore { .. }
                | Operation::UpdateBases { .. }
        )
    }))
}

/// Whether no value of a row went away behind `since`, as far as versions tell.
async fn has_removed_nothing(latest: &Dataset, since: u64) -> Result<bool> {
    let newest = latest.version().version;
    if since > newest || newest - since > VERSIONS_READ_MAX {
        return Ok(false);
    }
    for version in since + 1..=newest {
        let read = match latest.read_version_transaction(version).await.map_err(from_lance) {
            Ok(read) => read,
            // It was cleaned, and could have been anything.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let adds_only = read.transaction.is_some_and(|done| {
            matches!(
                done.operation,
                Operation::Append { .. }
                    | Operation::CreateIndex { .. }
                    | Operation::Rewrite { .. }
                    | Operation::ReserveFragments { .. }
                    | Operation::UpdateConfig { .. }
                    | Operation::UpdateBases { .. }
            )
        });
        if !adds_only {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Deletes what killed processes were writing in the folder of a branch: files and bytes.
fn delete_half_written(folder: &FsPath, before_ms: i64) -> Result<(u64, u64)> {
    let mut left = Vec::new();
    for inside in ["_versions", "data", "_indices", "_deletions", "_transactions"] {
        find_half_written(&folder.join(inside), &mut left)?;
    }
    let (mut files, mut bytes) = (0, 0);
    for path in left {
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // It has its name by now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(from_io(error, "look at a half-written file")),
        };
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_ms = modified.and_then(|at| i64::try_from(at.as_millis()).ok());
        if modified_ms.is_some_and(|at| at < before_ms) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(from_io(error, "delete a half-written file"));
                }
                _ => {
                    files += 1;
                    bytes += metadata.len();
                }
            }
        }
    }
    Ok((files, bytes))
}

fn find_half_written(folder: &FsPath, left: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| from_io(error, "list a table's files");
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_dir() {
            find_half_written(&entry.path(), left)?;
        } else if kind.is_file()
            && (name.starts_with(".tmp") || crate::examine::is_half_written(&name))
        {
            left.push(entry.path());
        }
    }
    Ok(())
}
