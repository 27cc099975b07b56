//! The sweep of large blobs: those that nothing refers to any more are deleted.
//!
//! ```text
//!   blobs that are old enough ─► who refers to them? uploads, claims, parts, then versions ─► nobody
//!                                                                                               │
//!     deleted ◄─ still nobody ◄─ the same question once more ◄─ marked: whoever wants one waits ◄─┘
//! ```
//!
//! What always holds:
//! - A blob that a version of any branch of any table refers to stays, and so does one that a finished
//!   upload stands for, that a part of a write refers to or that a write has claimed (`blob_claims.rs`).
//! - A reference moves only forward in that order: an upload is referred to by a write that has claimed
//!   the blob, a claim or a part becomes a version, a version another one. Each is there before the one
//!   before it goes. So who asks in that order misses none.
//! - References vanish before blobs: versions go by their own rules (`cleanup/`), rows by compaction and
//!   purging. A sweep changes no table.
//! - When anything cannot be read, nothing is deleted.
//!
//! A blob is one object: it is there or not, so nothing is left half deleted by a process that is killed.
//! What that one had not come to is found again by the next sweep.

mod references;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use futures::future::join_all;
use lakebed_core::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt as _;

use self::references::References;
pub(crate) use self::references::references_path;
use self::stored::{Stored, StoredBlob};
use crate::blob::blob_path;
use crate::blob_claims::{Marks, claimed_in};
use crate::blob_digest::BlobDigest;
use crate::lake::{Lake, Shared};
use crate::lance_error::{from_io, from_object_store};
use crate::multipart::blobs_of_parts;
use crate::table::Table;

/// Blobs that are marked, and looked for once more, together.
const MARKED_AT_ONCE: usize = 1_024;
/// Of these, those that are deleted at the same time.
const DELETES_AT_ONCE: usize = 16;

/// What may be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobSweepRule {
    /// Blobs that were stored before this time, in milliseconds since the Unix epoch.
    pub before_ms: i64,
    /// Claims of servers that write no more are as old as this.
    pub claims_before_ms: i64,
    /// Whether to say only what would be deleted.
    pub is_dry_run: bool,
}

/// How many, and how large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobCount {
    /// Objects.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl BlobCount {
    fn add(&mut self, stored: &StoredBlob) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(stored.bytes);
    }
}

/// What a sweep deleted, or would delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweptBlobs {
    /// Large blobs.
    pub deleted: BlobCount,
    /// Files that killed processes were writing.
    pub half_written: BlobCount,
    /// Those that stay, by the reason: `version`, `upload`, `write` or `young`.
    pub kept: BTreeMap<&'static str, BlobCount>,
    /// Of those that were marked to be deleted, how many were in use again at the second look.
    pub spared: u64,
}

/// A large blob that rows referred to which are gone, and that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBlob {
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Why, in words.
    pub by: String,
}

/// Why a blob stays.
#[derive(Debug, Default)]
struct Needed {
    uploads: HashSet<BlobDigest>,
    writes: HashSet<BlobDigest>,
}

impl Needed {
    fn why(&self, digest: &BlobDigest, references: &References<'_>) -> Option<&'static str> {
        if references.has(digest) {
            Some("version")
        } else if self.uploads.contains(digest) {
            Some("upload")
        } else if self.writes.contains(digest) {
            Some("write")
        } else {
            None
        }
    }
}

impl Lake {
    /// Deletes the large blobs that nothing refers to and that are old enough, or says which these are.
    ///
    /// # Errors
    /// `Busy` while a backup is under way; the error that kept a table from being read, which it names.
    /// What is left is deleted by the next sweep.
    #[boxed]
    pub async fn sweep_blobs(&self, rule: BlobSweepRule) -> Result<SweptBlobs> {
        Ok(self.sweep_asked(rule, &HashSet::new()).await?.0)
    }

    /// The large blobs that files of a table refer to, those of deleted rows included.
    ///
    /// # Errors
    /// When a version cannot be read.
    #[boxed]
    pub async fn blobs_named_by(&self, table: &Table) -> Result<BTreeSet<String>> {
        let named = References::named_by(self, table.location(), table.uid()).await?;
        Ok(named.iter().map(BlobDigest::hex).collect())
    }

    /// Deletes all large blobs that nothing refers to any more, however young. Says of those among
    /// `named` why they stay, unless a version of the table shows them.
    ///
    /// # Errors
    /// As [`Lake::sweep_blobs`].
    #[boxed]
    pub async fn purge_blobs(
        &self,
        table: &Table,
        named: &BTreeSet<String>,
        claims_before_ms: i64,
    ) -> Result<(SweptBlobs, Vec<KeptBlob>)> {
        let named: HashSet<BlobDigest> =
            named.iter().filter_map(|text| BlobDigest::parse(text)).collect();
        let mut shown = References::new(self, named.clone());
        shown.look_at_one(table.location(), table.uid()).await?;
        let gone = named.into_iter().filter(|digest| !shown.has(digest)).collect();
        let rule = BlobSweepRule { before_ms: i64::MAX, claims_before_ms, is_dry_run: false };
        self.sweep_asked(rule, &gone).await
    }

    async fn sweep_asked(
        &self,
        rule: BlobSweepRule,
        asked: &HashSet<BlobDigest>,
    ) -> Result<(SweptBlobs, Vec<KeptBlob>)> {
        let _one = self.shared.blob_claims.sweeping.lock().await;
        if !rule.is_dry_run && self.shared.pins.are_all_kept() {
            return Err(backup_runs());
        }
        let stored = Stored::list(&self.shared.root).await?;
        let mut swept = SweptBlobs::default();
        let needed = self.needed(rule.claims_before_ms).await?;
        let mut references = References::new(self, stored.blobs.keys().copied().collect());
        references.look().await?;
        let mut free = Vec::new();
        for (digest, blob) in &stored.blobs {
            let why = match needed.why(digest, &references) {
                None if self.shared.blob_claims.is_claimed(digest) => Some("write"),
                None if blob.modified_ms >= rule.before_ms => Some("young"),
                why => why,
            };
            match why {
                Some(why) => swept.kept.entry(why).or_default().add(blob),
                None => free.push((*digest, *blob)),
            }
        }
        let old = |stored: &StoredBlob| stored.modified_ms < rule.before_ms;
        let half_written = stored.half_written.iter().filter(|file| old(&file.stored));
        for file in half_written {
            if self.shared.blob_claims.is_claimed(&file.digest)
                || !rule.is_dry_run && !delete_file(&file.path).await?
            {
                continue;
            }
            swept.half_written.add(&file.stored);
        }
        if rule.is_dry_run {
            free.iter().for_each(|(_, blob)| swept.deleted.add(blob));
            return Ok((swept, Vec::new()));
        }
        for some in free.chunks(MARKED_AT_ONCE) {
            self.sweep_some(some, rule.claims_before_ms, &mut references, &mut swept).await?;
        }
        let mut kept = Vec::new();
        for digest in asked {
            let path = self.shared.root.path(&blob_path(&digest.hex()));
            match self.shared.root.store().head(&path).await {
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(from_object_store(error, "look for a blob")),
            }
            let by = match (references.location_of(digest), needed.uploads.contains(digest)) {
                (Some(location), _) => format!("the table in `{location}` refers to it"),
                (None, true) => "an upload stands for it until it expires".to_owned(),
                (None, false) => "a write that is under way may refer to it".to_owned(),
            };
            kept.push(KeptBlob { sha256: digest.hex(), by });
        }
        kept.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        Ok((swept, kept))
    }

    /// Who needs blobs and is no version.
    async fn needed(&self, claims_before_ms: i64) -> Result<Needed> {
        // In this order; see above.
        let uploads = self.uploads().digests().await?;
        let bucket = self.shared.bucket();
        let mut writes =
            claimed_in(bucket.as_ref().map(|(system, _)| system), claims_before_ms).await?;
        writes.extend(blobs_of_parts(&self.shared).await?);
        Ok(Needed { uploads, writes })
    }

    /// Deletes blobs that nobody needed a moment ago, if it is still so.
    async fn sweep_some(
        &self,
        free: &[(BlobDigest, StoredBlob)],
        claims_before_ms: i64,
        references: &mut References<'_>,
        swept: &mut SweptBlobs,
    ) -> Result<()> {
        let Some(sweep) = self.shared.pins.sweep() else { return Err(backup_runs()) };
        let mut marks = Marks::new(Arc::clone(&self.shared.blob_claims), self.shared.bucket());
        let mut marked = Vec::new();
        for (digest, blob) in free {
            match marks.mark(*digest).await? {
                true => marked.push((*digest, *blob)),
                false => swept.kept.entry("write").or_default().add(blob),
            }
        }
        let needed = self.needed(claims_before_ms).await?;
        references.look().await?;
        // Asked again, so that who waits for a blob need not wait any longer.
        let claimed = marks.claimed(claims_before_ms).await?;
        let (mut gone, mut stays) = (Vec::new(), Vec::new());
        for (digest, blob) in marked {
            let why = needed.why(&digest, references);
            match why.or(claimed.contains(&digest).then_some("write")) {
                Some(why) => {
                    swept.kept.entry(why).or_default().add(&blob);
                    stays.push(digest);
                }
                None => gone.push((digest, blob)),
            }
        }
        swept.spared += stays.len() as u64;
        metrics::counter!("lakebed_spared_blobs_total").increment(stays.len() as u64);
        for digest in stays {
            marks.unmark(&digest).await?;
        }
        let shared = Arc::clone(&self.shared);
        // A task of its own: were it dropped half way, a deletion that it began might end after its mark
        // is gone.
        let deleted = tokio::spawn(async move {
            let _sweep = sweep;
            delete_marked(&shared, &gone, &mut marks).await
        })
        .await
        .map_err(|error| Error::internal("the deletion of blobs failed").with_source(error))?;
        let (deleted, outcome) = deleted;
        swept.deleted.blobs += deleted.blobs;
        swept.deleted.bytes = swept.deleted.bytes.saturating_add(deleted.bytes);
        outcome
    }
}

/// Deletes what is marked; how much of it also where it fails.
async fn delete_marked(
    shared: &Shared,
    gone: &[(BlobDigest, StoredBlob)],
    marks: &mut Marks,
) -> (BlobCount, Result<()>) {
    let mut deleted = BlobCount::default();
    for some in gone.chunks(DELETES_AT_ONCE) {
        if !marks.are_fresh() || shared.pins.are_all_kept() {
            // Those that are left are the next sweep's.
            return (deleted, Ok(()));
        }
        let mut deletions = Vec::with_capacity(some.len());
        for (digest, _) in some {
            deletions.push(delete_blob(shared, *digest, marks));
        }
        // All of them to their end, so that none is left running.
        for ((digest, blob), outcome) in some.iter().zip(join_all(deletions).await) {
            let unmarked = match outcome {
                Ok(is_deleted) => {
                    if is_deleted {
                        deleted.add(blob);
                    }
                    marks.unmark(digest).await
                }
                Err(error) => {
                    // The store may do it later than it says.
                    marks.abandon(digest);
                    Err(error)
                }
            };
            if unmarked.is_err() {
                return (deleted, unmarked);
            }
        }
    }
    (deleted, Ok(()))
}

async fn delete_blob(shared: &Shared, digest: BlobDigest, marks: &Marks) -> Result<bool> {
    if !marks.holds(&digest).await? || !marks.are_fresh() {
        return Ok(false);
    }
    let path = shared.root.path(&blob_path(&digest.hex()));
    match shared.root.store().delete(&path).await {
        Ok(()) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(from_object_store(error, "deletion of a blob")),
    }
}

fn backup_runs() -> Error {
    let message = "a backup is under way, and no blob is deleted until it is done";
    Error::new(ErrorKind::Busy, message).with_retry_after_ms(60_000)
}

/// Whether it was there.
async fn delete_file(path: &std::path::Path) -> Result<bool> {
    match tokio::fs::remove_file(path).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(from_io(error, "delete a half-written blob")),
    }
}
