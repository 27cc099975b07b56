//! Compaction: small fragments beside each other become one, and deleted rows leave their files.
//!
//! ```text
//!   layout ─────────► (who decides is not here) ─► rewrite: new files from old, no lock held
//!                                                         │ synced
//!                         mutation lock ─► lance's commit ◄┘ ─► version
//! ```
//!
//! Rows keep their ids, and readers of older versions their files. What was written beside the rewrite
//! stays: appends pass it by, and where rows of a rewritten fragment were changed meanwhile, or an index came
//! that covers only a part, the rewrite is given up and its files are deleted. An index build that a rewrite overtook keeps later ones away. The
//! lock is held for the commit alone, and for moving the entries of B-trees.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_recursion::async_recursion as boxed;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::index::DatasetIndexRemapperOptions;
use lance::dataset::optimize::{
    CompactionOptions, CompactionTask, RewriteResult, TaskData, commit_compaction,
};
use lance::index::DatasetIndexExt as _;
use lance_table::format::{DataFile, Fragment};
use lance_table::system_index::is_system_index;
use roaring::RoaringBitmap;
use tokio::sync::OwnedMutexGuard;

use crate::commit::sync_versions;
use crate::durable::sync_new;
use crate::lance_error::{from_lance, from_object_store};
use crate::pace::Turn;
use crate::scan::{BATCH_BYTES, ScanSpec};
use crate::snapshot::{At, Snapshot};
use crate::table::{Branch, Table};
use crate::version::version_numbers;
use crate::write::discard;

/// Rows that are rewritten at a time, in tables without blobs.
const BATCH_ROWS_MAX: u64 = 8_192;
/// The same with blobs, each of which is held whole and may have 16 MiB.
const BLOB_BATCH_ROWS: usize = 16;
/// What is small enough to be rewritten while no row of the branch can be changed: a second or less.
const LOCKED_BYTES_MAX: u64 = 64 << 20;
/// What lance reads ahead while it rewrites.
const READ_AHEAD_BYTES: u64 = 64 << 20;

/// One fragment of a version, as who plans a compaction sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FragmentStats {
    /// Its number; fragments are adjacent in the order of these.
    pub id: u32,
    /// Rows, without deleted ones.
    pub rows: u64,
    /// Rows that are deleted and still take space.
    pub deleted_rows: u64,
    /// Bytes of its data files and of the blobs that lie beside them; `u64::MAX` where they are not known.
    pub bytes: u64,
    /// The indexes that cover it, by their place in the version: only fragments that are covered alike
    /// can be joined.
    pub indexes: Vec<usize>,
}

/// What a compaction plans from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutStats {
    /// The version.
    pub version: u64,
    /// Its fragments in their order.
    pub fragments: Vec<FragmentStats>,
    /// Whether the table has columns of blobs, whose bytes lie beside its data files.
    pub has_blobs: bool,
}

/// What a rewrite did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// The version with it.
    pub version: u64,
    /// Fragments that are gone from that version.
    pub removed: usize,
    /// Fragments that took their place.
    pub added: usize,
}

impl Snapshot {
    /// The fragments of the version and what they take.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn layout(&self) -> Result<LayoutStats> {
        let has_blobs = self.dataset.schema().fields.iter().any(|field| field.is_blob());
        let fragments = self.dataset.fragments().iter();
        let mut files = fragments.flat_map(|fragment| fragment.referenced_lance_files());
        let are_known = files.all(|file| file.file_size_bytes.get().is_some());
        let stored = match has_blobs || !are_known {
            true => self.stored_bytes().await?,
            false => StoredBytes::default(),
        };
        let covered = covered_fragments(&self.dataset).await?;
        let mut fragments = Vec::new();
        for fragment in self.dataset.fragments().iter() {
            let id = u32::try_from(fragment.id)
                .map_err(|_| Error::internal("a fragment's number is beyond 32 bits"))?;
            let deletions = fragment.deletion_file.as_ref();
            let deleted = deletions.and_then(|file| file.num_deleted_rows).unwrap_or(0) as u64;
            let sizes: Option<Vec<u64>> =
                fragment.referenced_lance_files().map(|file| stored.size_of(file)).collect();
            // What is not known may be large, and is left alone.
            let (physical, bytes) = match (fragment.physical_rows, sizes) {
                (Some(rows), Some(sizes)) => {
                    (rows as u64, sizes.into_iter().fold(0, u64::saturating_add))
                }
                _ => (deleted, u64::MAX),
            };
            let covering = covered.iter().enumerate().filter(|(_, bitmap)| bitmap.contains(id));
            fragments.push(FragmentStats {
                id,
                rows: physical.saturating_sub(deleted),
                deleted_rows: deleted,
                bytes,
                indexes: covering.map(|(at, _)| at).collect(),
            });
        }
        Ok(LayoutStats { version: self.version(), fragments, has_blobs })
    }

    async fn stored_bytes(&self) -> Result<StoredBytes> {
        let root = &self.table().shared.root;
        let data = self.dataset.branch_location().path.clone().join("data");
        let depth = data.parts().count();
        let mut listing = root.store().list(Some(&data));
        let mut stored = StoredBytes::default();
        let failed = |error| from_object_store(error, "listing of a table's data");
        while let Some(object) = listing.try_next().await.map_err(failed)? {
            let parts: Vec<_> = object.location.parts().skip(depth).collect();
            match parts.as_slice() {
                [name] => drop(stored.files.insert(name.as_ref().to_owned(), object.size)),
                [stem, ..] => {
                    *stored.beside.entry(stem.as_ref().to_owned()).or_default() += object.size;
                }
                [] => {}
            }
        }
        Ok(stored)
    }
}

/// The fragments that each index of a version covers; of those of lance's own nothing is told.
async fn covered_fragments(version: &Dataset) -> Result<Vec<RoaringBitmap>> {
    let indices = version.load_indices().await.map_err(from_lance)?;
    let of_columns = indices.iter().filter(|index| !is_system_index(index));
    Ok(of_columns.filter_map(|index| index.fragment_bitmap.clone()).collect())
}

/// Whether each index of a version covers all of some fragments or none. Lance joins no others, and an
/// index that was built beside a rewrite may cover those that were there when its building began.
async fn are_covered_alike(version: &Dataset, fragments: &[Fragment]) -> Result<bool> {
    let covered = covered_fragments(version).await?;
    Ok(covered.iter().all(|bitmap| {
        let has = |fragment: &Fragment| bitmap.contains(fragment.id as u32);
        fragments.iter().all(has) || !fragments.iter().any(has)
    }))
}

/// Whether all versions between that one and this are there: lance looks through them for what a commit
/// contradicts, and old ones may be cleaned while a rewrite takes its time.
async fn are_kept_since(latest: &Dataset, version: u64) -> Result<bool> {
    let newest = latest.version().version;
    if newest <= version.saturating_add(1) {
        return Ok(true);
    }
    let between = version_numbers(latest).await?.into_iter().filter(|number| *number > version);
    Ok(between.count() as u64 >= newest - version)
}

/// What lies in a table's folder of data.
#[derive(Debug, Default)]
struct StoredBytes {
    /// Bytes of data files, by their names.
    files: HashMap<String, u64>,
    /// Bytes of the blobs beside data files, by the data file's name without its ending.
    beside: HashMap<String, u64>,
}

impl StoredBytes {
    /// A data file with its blobs.
    fn size_of(&self, file: &DataFile) -> Option<u64> {
        let known = file.file_size_bytes.get().map(u64::from);
        let size = known.or_else(|| self.files.get(&file.path).copied())?;
        let beside = self.beside.get(file.path.trim_end_matches(".lance")).copied();
        Some(size.saturating_add(beside.unwrap_or(0)))
    }
}

impl Table {
    /// Rewrites fragments of the newest version of a branch, which lie beside each other, as one or as
    /// few as fit. Nothing when one of them is not there any more, when their rows were changed while
    /// they were rewritten, when an index covers only some of them, or while an index is built that rewrites
    /// hindered before. Up to
    /// [`LOCKED_BYTES_MAX`] are then written a second time, while no row is changed. `turn` rests while files
    /// are written and no lock is held.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; nothing is changed then.
    pub fn rewrite_fragments<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        fragments: &'a [u32],
        bytes: u64,
        turn: &'a mut Turn,
    ) -> BoxFuture<'a, Result<Option<Compacted>>> {
        async move {
            let handle = self.branch(branch).await?;
            let _pin = handle.hold().await?;
            if handle.rewrites.are_hindered() {
                return Ok(None);
            }
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            let first = turn.work(rewrite(&snapshot, fragments)).await?;
            let Some(first) = first else { return Ok(None) };
            let mutation = Arc::clone(&handle.mutation).lock_owned().await;
            match handle.commit_rewrite(first, mutation).await? {
                None if bytes <= LOCKED_BYTES_MAX => {}
                outcome => return Ok(outcome),
            }
            let mutation = Arc::clone(&handle.mutation).lock_owned().await;
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            match rewrite(&snapshot, fragments).await? {
                Some(again) => handle.commit_rewrite(again, mutation).await,
                None => Ok(None),
            }
        }
        .boxed()
    }
}

/// Whether the fragments of a branch may be rewritten.
#[derive(Debug, Default)]
pub(crate) struct Rewrites(Arc<AtomicUsize>);

impl Rewrites {
    /// No rewrite is committed until the answer is dropped. The caller holds the branch's mutation lock.
    pub(crate) fn hinder(&self) -> HinderedRewrites {
        self.0.fetch_add(1, Ordering::SeqCst);
        HinderedRewrites(Arc::clone(&self.0))
    }

    fn are_hindered(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

/// Keeps the fragments of a branch as they are.
#[derive(Debug)]
pub(crate) struct HinderedRewrites(Arc<AtomicUsize>);

impl Drop for HinderedRewrites {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// New files for fragments of a version, where it has them all and its indexes cover them alike.
async fn rewrite(snapshot: &Snapshot, fragments: &[u32]) -> Result<Option<RewriteResult>> {
    let all = snapshot.dataset.fragments();
    let wanted: Vec<_> = fragments
        .iter()
        .filter_map(|id| all.iter().find(|fragment| fragment.id == u64::from(*id)))
        .cloned()
        .collect();
    if wanted.len() < fragments.len() || wanted.is_empty() {
        return Ok(None);
    }
    if !are_covered_alike(&snapshot.dataset, &wanted).await? {
        return Ok(None);
    }
    let has_blobs = snapshot.dataset.schema().fields.iter().any(|field| field.is_blob());
    let batch_rows = match has_blobs {
        true => BLOB_BATCH_ROWS,
        false => {
            let rows = snapshot.rows_of(&ScanSpec::default(), BATCH_BYTES, BATCH_ROWS_MAX).await?;
            usize::try_from(rows).unwrap_or(BLOB_BATCH_ROWS)
        }
    };
    let options = CompactionOptions {
        batch_size: Some(batch_rows),
        io_buffer_size: Some(READ_AHEAD_BYTES),
        ..CompactionOptions::default()
    };
    let task = TaskData { fragments: wanted };
    let task = CompactionTask { task, read_version: snapshot.version(), options };
    let rewritten = Box::pin(task.execute(&snapshot.dataset)).await.map_err(from_lance)?;
    Ok(Some(rewritten))
}

/// Whether a version has one of the files of new fragments, whose names are nobody else's.
fn names_any(version: &Dataset, new: &[Fragment]) -> bool {
    let files = |fragments: &[Fragment]| -> HashSet<String> {
        fragments
            .iter()
            .flat_map(|fragment| &fragment.files)
            .map(|file| file.path.clone())
            .collect()
    };
    !files(version.fragments()).is_disjoint(&files(new))
}

impl Branch {
    /// Commits a rewrite by lance's own way, which also moves what indexes say of the rows. Appends go on
    /// beside it. Nothing when its fragments were changed, or an index now covers some of them; its files are
    /// deleted then.
    async fn commit_rewrite(
        self: &Arc<Self>,
        rewritten: RewriteResult,
        mutation: OwnedMutexGuard<()>,
    ) -> Result<Option<Compacted>> {
        let branch = Arc::clone(self);
        // A task of its own, so that a caller that goes away cannot cut the commit in half.
        tokio::spawn(async move {
            let _mutation = mutation;
            branch.commit_rewrite_alone(rewritten).await
        })
        .await
        .map_err(|error| Error::internal("the commit task failed").with_source(error))?
    }

    async fn commit_rewrite_alone(&self, rewritten: RewriteResult) -> Result<Option<Compacted>> {
        // Here too, because whoever asked for it may be gone, and what it held with it.
        let _pin = self.hold().await?;
        let latest = self.latest().await?;
        let base = latest.branch_location().path.clone();
        let (old, new) = (rewritten.original_fragments.clone(), rewritten.new_fragments.clone());
        let is_there = |fragment: &Fragment| latest.fragments().iter().any(|now| now == fragment);
        let read_version = rewritten.read_version;
        let is_joinable = old.iter().all(is_there)
            && !self.rewrites.are_hindered()
            && are_covered_alike(&latest, &old).await?
            && are_kept_since(&latest, read_version).await?;
        if !is_joinable {
            discard(&self.shared, &base, &new).await?;
            return Ok(None);
        }
        let folder = self.shared.root.folder_of(&base)?;
        if let (Some(folder), Some(root)) = (&folder, self.shared.root.local()) {
            sync_new(&new, &[], folder, root).await?;
        }
        let (outcome, newest) = self
            .commit_by_lance(&latest, |dataset| {
                async move {
                    let remapper = Arc::new(DatasetIndexRemapperOptions::default());
                    let options = CompactionOptions::default();
                    let rewritten = vec![rewritten];
                    commit_compaction(dataset, rewritten, remapper, &options).await.map(|_| ())
                }
                .boxed()
            })
            .await?;
        match outcome {
            Ok(()) => {}
            // A store may have done what it said it refused; then it is no loss.
            Err(error) if names_any(&newest, &new) => {
                tracing::info!(error = %error.report(), "a rewrite was committed all the same");
            }
            Err(error) => {
                // Another server or tool was first, or cleaning was.
                let is_lost = error.kind() == ErrorKind::Conflict
                    || !are_kept_since(&newest, read_version).await?;
                if !is_lost {
                    return Err(error);
                }
                discard(&self.shared, &base, &new).await?;
                return Ok(None);
            }
        }
        sync_versions(&self.shared, &base).await?;
        let version = newest.version().version;
        Ok(Some(Compacted { version, removed: old.len(), added: new.len() }))
    }
}

#[cfg(test)]
mod tests;
