//! Who needs a large blob that no version refers to yet, and who is about to delete one.
//!
//! A write that finds its blob stored already, or that makes one of an upload, refers to it only when it
//! commits. From before it looks until after that it has a claim on the blob. A sweep (`blob_sweep/`)
//! marks what it is about to delete and then looks once more:
//!
//! ```text
//!   write:  claim ─► marked? wait ─► look, store ─► commit ─► claim gone
//!   sweep:  mark ─► claimed? ─► referred to? ─► delete ─► mark gone
//! ```
//!
//! Whichever comes second sees the first: a claim that was there before the mark is seen by the sweep, or
//! what was committed with it is; one that comes later waits until the sweep is done with that blob, and
//! then stores the bytes where they are gone.
//!
//! In a process this is a register in memory. In a bucket, which other servers may use, claims and marks
//! are objects besides:
//!
//! - `_lakebed/blob_claims/<digest>/<write>`, empty. A killed server leaves its own; a sweep forgets those
//!   that are as old as what it may delete.
//! - `_lakebed/blob_marks/<digest>`: who, and since when. It is put where nothing is, so that one sweeps a
//!   blob at a time. A killed server leaves its own; [`MARK_AGE_MAX`] later anybody takes it away. A sweep
//!   deletes nothing once [`MARK_USED_FOR`] is over: so a server would have to stand still for the time
//!   between, with nothing but the deletion left to be done, to delete what is in use again.
//!
//! A write that ends without saying how, because its caller went away, may still be committing: its
//! claims stay for [`LINGER`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use lakebed_core::{Clock, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::blob_digest::BlobDigest;
use crate::system::SystemStore;

/// How long claims stay of a write whose end is not known: longer than any commit takes.
const LINGER: Duration = Duration::from_secs(3_600);
/// How long a write waits for a sweep that has its blob.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often it looks in a bucket.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a sweep relies on its marks.
pub(crate) const MARK_USED_FOR: Duration = Duration::from_secs(300);
/// A mark of that age is of a server that is gone.
const MARK_AGE_MAX: Duration = Duration::from_secs(900);

const CLAIMS_FOLDER: &str = "blob_claims";
const MARKS_FOLDER: &str = "blob_marks";

/// A mark as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    sweep: String,
    at_ms: i64,
}

#[derive(Debug, Default)]
struct Register {
    claims: HashMap<BlobDigest, usize>,
    /// Claims that are let go later.
    lingering: VecDeque<(Instant, Vec<BlobDigest>)>,
    marked: HashSet<BlobDigest>,
}

impl Register {
    fn let_go(&mut self, digests: &[BlobDigest]) {
        for digest in digests {
            if let Some(count) = self.claims.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    self.claims.remove(digest);
                }
            }
        }
    }

    fn is_claimed(&mut self, digest: &BlobDigest, now: Instant) -> bool {
        while let Some((_, digests)) = self.lingering.pop_front_if(|(until, _)| *until <= now) {
            self.let_go(&digests);
        }
        self.claims.contains_key(digest)
    }
}

/// The claims and marks of one lake, as far as this process knows them.
#[derive(Debug, Default)]
pub(crate) struct BlobClaims {
    register: Mutex<Register>,
    /// Told whenever a mark goes.
    unmarked: Notify,
    /// Held by the one sweep of this process.
    pub(crate) sweeping: tokio::sync::Mutex<()>,
}

impl BlobClaims {
    fn lock(&self) -> MutexGuard<'_, Register> {
        // Each critical section leaves the register whole, so a panic elsewhere cannot spoil it.
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write of this process needs a blob.
    pub(crate) fn is_claimed(&self, digest: &BlobDigest) -> bool {
        self.lock().is_claimed(digest, Instant::now())
    }

    fn is_marked(&self, digest: &BlobDigest) -> bool {
        self.lock().marked.contains(digest)
    }

    fn unmark(&self, digest: &BlobDigest) {
        self.lock().marked.remove(digest);
        self.unmarked.notify_waiters();
    }

    async fn wait_until_unmarked(&self, digest: &BlobDigest) -> Result<()> {
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        let mut has_waited = false;
        loop {
            let unmarked = self.unmarked.notified();
            tokio::pin!(unmarked);
            // Listened to before the look, so that what happens in between is heard.
            unmarked.as_mut().enable();
            if !self.is_marked(digest) {
                return Ok(());
            }
            note_wait(&mut has_waited);
            if tokio::time::timeout_at(deadline, unmarked).await.is_err() {
                return Err(is_being_swept(digest));
            }
        }
    }
}

fn note_wait(has_waited: &mut bool) {
    if !*has_waited {
        metrics::counter!("lakebed_blob_claims_waited_total").increment(1);
        *has_waited = true;
    }
}

fn is_being_swept(digest: &BlobDigest) -> Error {
    let message = format!("the blob {} is just being deleted", digest.hex());
    Error::new(ErrorKind::Busy, message).with_retry_after_ms(5_000)
}

/// The claims of one write.
pub(crate) struct WriteClaims {
    claims: Arc<BlobClaims>,
    /// Where other servers look, in a bucket.
    bucket: Option<Bucket>,
    /// The digests; whether nobody deletes the blob any more.
    held: Mutex<HashMap<BlobDigest, bool>>,
    may_commit: AtomicBool,
}

struct Bucket {
    system: SystemStore,
    clock: Arc<dyn Clock>,
    write: String,
}

impl std::fmt::Debug for WriteClaims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteClaims").field("held", &self.digests()).finish_non_exhaustive()
    }
}

impl WriteClaims {
    /// Of a write to a local lake without `bucket`, else to one in a bucket.
    pub(crate) fn new(
        claims: Arc<BlobClaims>,
        bucket: Option<(SystemStore, Arc<dyn Clock>)>,
    ) -> Arc<Self> {
        let bucket = bucket.map(|(system, clock)| Bucket {
            system,
            clock,
            write: uuid::Uuid::now_v7().simple().to_string(),
        });
        Arc::new(WriteClaims {
            claims,
            bucket,
            held: Mutex::default(),
            may_commit: AtomicBool::new(false),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<BlobDigest, bool>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blobs that the write needs.
    pub(crate) fn digests(&self) -> Vec<BlobDigest> {
        self.held().keys().copied().collect()
    }

    /// Claims a blob, whether it is stored already or not: to be called before looking for it. Waits for
    /// a sweep that is about to delete it.
    ///
    /// # Errors
    /// `Busy` when that takes long, `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn claim(&self, digest: BlobDigest) -> Result<()> {
        let is_known = {
            let mut held = self.held();
            let known = held.get(&digest).copied();
            if known.is_none() {
                *self.claims.lock().claims.entry(digest).or_default() += 1;
                held.insert(digest, false);
            }
            known
        };
        if is_known == Some(true) {
            return Ok(());
        }
        if let Some(bucket) = &self.bucket {
            bucket.claim(&digest).await?;
        }
        self.claims.wait_until_unmarked(&digest).await?;
        if let Some(bucket) = &self.bucket {
            bucket.wait_until_unmarked(&digest).await?;
        }
        self.held().insert(digest, true);
        Ok(())
    }

    /// To be called before the commit: from here on it may happen even if nobody waits for it any more.
    pub(crate) fn may_commit(&self) {
        self.may_commit.store(true, Ordering::SeqCst);
    }

    /// To be called after the commit, or where it is certain that there will be none.
    pub(crate) fn end<T>(&self, outcome: &Result<T>) {
        let is_known = match outcome {
            Ok(_) => true,
            Err(error) => matches!(
                error.kind(),
                ErrorKind::Conflict
                    | ErrorKind::NotFound
                    | ErrorKind::InvalidArgument
                    | ErrorKind::AlreadyExists
            ),
        };
        if is_known {
            self.may_commit.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for WriteClaims {
    fn drop(&mut self) {
        let digests = self.digests();
        if digests.is_empty() {
            return;
        }
        let lingers = self.may_commit.load(Ordering::SeqCst);
        {
            let mut register = self.claims.lock();
            match lingers {
                true => {
                    register.lingering.push_back((Instant::now() + LINGER, digests.clone()));
                }
                false => register.let_go(&digests),
            }
        }
        let (Some(bucket), Ok(runtime)) =
            (self.bucket.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            if lingers {
                tokio::time::sleep(LINGER).await;
            }
            for digest in digests {
                if let Err(error) = bucket.system.delete(&bucket.path(&digest)).await {
                    // It is forgotten when it is old.
                    tracing::info!(error = %error.report(), "a claim on a blob stays behind");
                }
            }
        });
    }
}

impl Bucket {
    fn path(&self, digest: &BlobDigest) -> String {
        format!("{CLAIMS_FOLDER}/{}/{}", digest.hex(), self.write)
    }

    async fn claim(&self, digest: &BlobDigest) -> Result<()> {
        self.system.put(&self.path(digest), Bytes::new()).await
    }

    async fn wait_until_unmarked(&self, digest: &BlobDigest) -> Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut has_waited = false;
        let path = mark_path(digest);
        loop {
            let Some(mark) = read_mark(&self.system, &path).await? else { return Ok(()) };
            if is_stale(&mark, self.clock.now_ms()) {
                self.system.delete(&path).await?;
                continue;
            }
            note_wait(&mut has_waited);
            if Instant::now() >= deadline {
                return Err(is_being_swept(digest));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn mark_path(digest: &BlobDigest) -> String {
    format!("{MARKS_FOLDER}/{}", digest.hex())
}

fn is_stale(mark: &Mark, now_ms: i64) -> bool {
    now_ms.saturating_sub(mark.at_ms) > MARK_AGE_MAX.as_millis() as i64
}

async fn read_mark(system: &SystemStore, path: &str) -> Result<Option<Mark>> {
    let Some(bytes) = system.get(path).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("the record `{path}` is damaged")).with_source(error)
    })
}

/// What a sweep is about to delete.
pub(crate) struct Marks {
    claims: Arc<BlobClaims>,
    bucket: Option<(SystemStore, Arc<dyn Clock>)>,
    sweep: String,
    since: Instant,
    marked: HashSet<BlobDigest>,
}

impl Marks {
    pub(crate) fn new(
        claims: Arc<BlobClaims>,
        bucket: Option<(SystemStore, Arc<dyn Clock>)>,
    ) -> Self {
        let sweep = uuid::Uuid::now_v7().simple().to_string();
        Marks { claims, bucket, sweep, since: Instant::now(), marked: HashSet::new() }
    }

    /// Whether there is time left to delete what is marked.
    pub(crate) fn are_fresh(&self) -> bool {
        self.since.elapsed() < MARK_USED_FOR
    }

    /// The blobs that are marked.
    pub(crate) fn digests(&self) -> impl Iterator<Item = BlobDigest> {
        self.marked.iter().copied()
    }

    /// Marks a blob, unless a write of this process needs it or another server sweeps it.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn mark(&mut self, digest: BlobDigest) -> Result<bool> {
        {
            let mut register = self.claims.lock();
            if register.is_claimed(&digest, Instant::now()) || !register.marked.insert(digest) {
                return Ok(false);
            }
        }
        self.marked.insert(digest);
        let Some((system, clock)) = &self.bucket else { return Ok(true) };
        let path = mark_path(&digest);
        let mark = Mark { sweep: self.sweep.clone(), at_ms: clock.now_ms() };
        let bytes = serde_json::to_vec(&mark)
            .map_err(|error| Error::internal("encode a mark").with_source(error))?;
        let bytes = Bytes::from(bytes);
        if system.create(&path, bytes.clone()).await? {
            return Ok(true);
        }
        match read_mark(system, &path).await? {
            Some(other) if !is_stale(&other, clock.now_ms()) => {}
            left => {
                if left.is_some() {
                    system.delete(&path).await?;
                }
                if system.create(&path, bytes).await? {
                    return Ok(true);
                }
            }
        }
        // Not ours, so it stays.
        self.marked.remove(&digest);
        self.claims.unmark(&digest);
        Ok(false)
    }

    /// The blobs that writes need by now, this process's and those of other servers. Claims of the time
    /// before `stale_ms` are of servers that are gone, and are forgotten.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn claimed(&self, stale_ms: i64) -> Result<HashSet<BlobDigest>> {
        let bucket = self.bucket.as_ref().map(|(system, _)| system);
        let mut claimed = claimed_in(bucket, stale_ms).await?;
        claimed.extend(self.digests().filter(|digest| self.claims.is_claimed(digest)));
        Ok(claimed)
    }

    /// Whether a mark is still there, as others see it.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn holds(&self, digest: &BlobDigest) -> Result<bool> {
        let Some((system, _)) = &self.bucket else { return Ok(true) };
        let mark = read_mark(system, &mark_path(digest)).await?;
        Ok(mark.is_some_and(|mark| mark.sweep == self.sweep))
    }

    /// Takes a mark away: the blob is deleted, or stays.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn unmark(&mut self, digest: &BlobDigest) -> Result<()> {
        if let Some((system, _)) = &self.bucket
            && self.holds(digest).await?
        {
            system.delete(&mark_path(digest)).await?;
        }
        self.marked.remove(digest);
        self.claims.unmark(digest);
        Ok(())
    }
}

impl Marks {
    /// Leaves a mark that nobody may rely on: in a bucket it stays until it is too old, because the
    /// deletion may happen yet.
    pub(crate) fn abandon(&mut self, digest: &BlobDigest) {
        self.marked.remove(digest);
        self.claims.unmark(digest);
    }
}

impl Drop for Marks {
    /// Of a sweep that was cut off. In a bucket the marks stay until they are too old.
    fn drop(&mut self) {
        for digest in &self.marked {
            self.claims.unmark(digest);
        }
        let (Some((system, _)), Ok(runtime)) =
            (self.bucket.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (marked, sweep) = (std::mem::take(&mut self.marked), self.sweep.clone());
        runtime.spawn(async move {
            for digest in marked {
                let path = mark_path(&digest);
                if let Ok(Some(mark)) = read_mark(&system, &path).await
                    && mark.sweep == sweep
                {
                    let _ = system.delete(&path).await;
                }
            }
        });
    }
}

/// The blobs that writes of any server claim in a bucket, by the records there; none in a local lake.
pub(crate) async fn claimed_in(
    system: Option<&SystemStore>,
    stale_ms: i64,
) -> Result<HashSet<BlobDigest>> {
    let mut claimed = HashSet::new();
    let Some(system) = system else { return Ok(claimed) };
    for object in system.list(CLAIMS_FOLDER).await? {
        if object.modified_ms < stale_ms {
            system.delete(&object.path).await?;
            continue;
        }
        claimed.extend(object.path.split('/').nth(1).and_then(BlobDigest::parse));
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> BlobDigest {
        BlobDigest::new([n; 32])
    }

    fn claims() -> Arc<BlobClaims> {
        Arc::default()
    }

    #[tokio::test]
    async fn what_is_claimed_is_not_marked() {
        let claims = claims();
        let write = WriteClaims::new(Arc::clone(&claims), None);
        write.claim(digest(1)).await.unwrap();
        write.claim(digest(1)).await.unwrap();
        let other = WriteClaims::new(Arc::clone(&claims), None);
        other.claim(digest(1)).await.unwrap();
        let mut marks = Marks::new(Arc::clone(&claims), None);
        assert!(!marks.mark(digest(1)).await.unwrap());
        assert!(marks.mark(digest(2)).await.unwrap());
        drop(write);
        assert!(!marks.mark(digest(1)).await.unwrap());
        drop(other);
        assert!(marks.mark(digest(1)).await.unwrap());
        assert!(!marks.mark(digest(1)).await.unwrap(), "it is marked already");
    }

    #[tokio::test]
    async fn a_write_waits_for_a_mark_and_the_sweep_sees_it() {
        let claims = claims();
        let mut marks = Marks::new(Arc::clone(&claims), None);
        assert!(marks.mark(digest(1)).await.unwrap());
        let write = WriteClaims::new(Arc::clone(&claims), None);
        let waiting = tokio::spawn({
            let write = Arc::clone(&write);
            async move { write.claim(digest(1)).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        assert!(marks.claimed(0).await.unwrap().contains(&digest(1)));
        marks.unmark(&digest(1)).await.unwrap();
        waiting.await.unwrap().unwrap();
        assert!(!marks.mark(digest(1)).await.unwrap());

        // A sweep that goes away leaves no mark.
        let free = digest(2);
        assert!(marks.mark(free).await.unwrap());
        drop(marks);
        WriteClaims::new(Arc::clone(&claims), None).claim(free).await.unwrap();
    }

    #[tokio::test]
    async fn a_write_that_may_have_committed_keeps_its_claims() {
        let claims = claims();
        let unknown = WriteClaims::new(Arc::clone(&claims), None);
        unknown.claim(digest(1)).await.unwrap();
        unknown.may_commit();
        drop(unknown);
        assert!(claims.is_claimed(&digest(1)));

        let committed = WriteClaims::new(Arc::clone(&claims), None);
        committed.claim(digest(2)).await.unwrap();
        committed.may_commit();
        committed.end(&Ok(()));
        drop(committed);
        assert!(!claims.is_claimed(&digest(2)));

        let lost = WriteClaims::new(Arc::clone(&claims), None);
        lost.claim(digest(3)).await.unwrap();
        lost.may_commit();
        lost.end::<()>(&Err(Error::new(ErrorKind::CommitUnknown, "no answer")));
        drop(lost);
        assert!(claims.is_claimed(&digest(3)));
        let mut register = claims.lock();
        assert!(!register.is_claimed(&digest(3), Instant::now() + LINGER));
    }
}
