//! Write ids: the same write sent twice is done once.
//!
//! The id of a write is stored in the transaction that makes its rows visible, so the two can never
//! disagree. Reading old transactions is slow, so what was learned from them is kept in memory and
//! checkpointed as numbered segments `_lakebed/write_ids/<table uid>/<branch>/<first>-<last>.json`, each
//! covering a range of versions. A start reads the segments and only the transactions after the last.
//!
//! ```text
//!   begin(id) ── known ──► the first receipt
//!      └─ fresh ─► reservation ─► commit carries the id ─► finish(version)
//!                     └─ dropped: the id is free again
//! ```
//!
//! An id is remembered for 7 days or until 100,000 newer ones push it out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::DateTime;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use serde::{Deserialize, Serialize};

use crate::lance_error::from_lance;
use crate::system::SystemStore;
use crate::version::version_at;

const REMEMBERED_MAX: usize = 100_000;
const REMEMBERED_MS: i64 = 7 * 24 * 3_600_000;
const SEGMENT_VERSIONS: u64 = 256;
/// Transactions that are read at the same time.
const READS_AT_ONCE: usize = 16;
/// How long a write waits for another with the same id.
const TURN_WAIT: std::time::Duration = std::time::Duration::from_secs(30);
const PROPERTY_PREFIX: &str = "lakebed.write.";

/// What is remembered of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRecord {
    /// Mode and keys as text: the same id with another mode is another write.
    pub mode: String,
    /// Digest of the schema that was sent.
    pub schema: String,
    /// Rows that were received.
    pub rows: u64,
    /// Bytes of these rows, decoded.
    pub bytes: u64,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A write that was done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWrite {
    /// The version that made its rows visible.
    pub version: u64,
    /// What was written.
    pub record: WriteRecord,
}

#[derive(Debug, Serialize, Deserialize)]
struct SegmentEntry {
    id: String,
    version: u64,
    #[serde(flatten)]
    record: WriteRecord,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<String, KnownWrite>,
    /// Ids in the order of their commits, for forgetting.
    order: VecDeque<String>,
    running: HashSet<String>,
    /// Ids since the last checkpoint.
    fresh: Vec<String>,
    checkpointed: u64,
    seen: u64,
}

/// The write ids of one branch of one table.
#[derive(Debug)]
pub(crate) struct WriteIds {
    system: SystemStore,
    folder: String,
    inner: Mutex<Inner>,
    /// Told whenever a running write ends.
    ended: tokio::sync::Notify,
}

/// What `begin` found.
#[derive(Debug)]
pub(crate) enum Begun {
    Known(KnownWrite),
    Fresh(Reservation),
}

/// Holds an id while its write runs.
#[derive(Debug)]
pub(crate) struct Reservation {
    ids: Arc<WriteIds>,
    id: String,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ids.lock().running.remove(&self.id);
        self.ids.ended.notify_waiters();
    }
}

impl WriteIds {
    /// Reads the checkpoints and the transactions after them, up to the version of `dataset`.
    pub(crate) async fn load(
        system: &SystemStore,
        uid: &str,
        branch: &str,
        dataset: &Dataset,
        now_ms: i64,
    ) -> Result<Arc<WriteIds>> {
        let folder = format!("write_ids/{uid}/{branch}");
        let mut inner = Inner::default();
        for object in system.list(&folder).await? {
            let Some(bytes) = system.get(&object.path).await? else { continue };
            let entries: Vec<SegmentEntry> = serde_json::from_slice(&bytes).map_err(|error| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("write id checkpoint `{}` is damaged", object.path),
                )
                .with_source(error)
            })?;
            for entry in entries {
                inner.remember(
                    entry.id,
                    KnownWrite { version: entry.version, record: entry.record },
                );
            }
            let last = object
                .path
                .rsplit('/')
                .next()
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|name| name.split('-').nth(1))
                .and_then(|last| last.parse().ok());
            inner.checkpointed = inner.checkpointed.max(last.unwrap_or(0));
        }
        inner.seen = inner.checkpointed;
        let ids = WriteIds {
            system: system.clone(),
            folder,
            inner: Mutex::new(inner),
            ended: tokio::sync::Notify::new(),
        };
        ids.catch_up(dataset, now_ms).await?;
        let ids = Arc::new(ids);
        if ids.wants_checkpoint() {
            // So that the next start does not read them again.
            ids.clone().checkpoint_in_background(now_ms);
        }
        Ok(ids)
    }

    /// Reads the transactions of versions that were committed since, by this server or another, as far
    /// back as ids are remembered.
    pub(crate) async fn catch_up(&self, dataset: &Dataset, now_ms: i64) -> Result<()> {
        let latest = dataset.version().version;
        let seen = self.lock().seen;
        let first = match latest.saturating_sub(seen) > SEGMENT_VERSIONS {
            true => first_remembered(dataset, now_ms).await?.max(seen + 1),
            false => seen + 1,
        };
        let reads = (first..=latest).map(|version| async move {
            (version, dataset.read_transaction_by_version(version).await)
        });
        let mut transactions = futures::stream::iter(reads).buffered(READS_AT_ONCE);
        while let Some((version, transaction)) = transactions.next().await {
            match transaction {
                Ok(Some(transaction)) => {
                    let found = from_properties(transaction.transaction_properties.as_deref());
                    let mut inner = self.lock();
                    for (id, record) in found {
                        inner.remember_fresh(id, KnownWrite { version, record });
                    }
                }
                // A version without a transaction was written by another tool; one that is gone was
                // cleaned up there. Neither carried an id of ours that could still be asked for.
                Ok(None) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let error = from_lance(error);
                    if error.kind() != ErrorKind::NotFound {
                        return Err(
                            error.context(format!("read the transaction of version {version}"))
                        );
                    }
                }
            }
        }
        let mut inner = self.lock();
        inner.seen = inner.seen.max(latest);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each critical section leaves the state whole, so a panic elsewhere cannot spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks an id up and reserves it when it is new.
    ///
    /// # Errors
    /// `AlreadyExists` when the id was used by a write of another mode or schema, `Conflict` while a
    /// write with the same id runs.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: &str,
        mode: &str,
        schema: &str,
        now_ms: i64,
    ) -> Result<Begun> {
        let mut inner = self.lock();
        inner.forget_old(now_ms);
        if let Some(known) = inner.known.get(id) {
            return same_write(id, known, mode, schema).map(Begun::Known);
        }
        if !inner.running.insert(id.to_owned()) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("a write with the write id `{id}` is running"),
            )
            .with_retry_after_ms(500));
        }
        Ok(Begun::Fresh(Reservation { ids: self.clone(), id: id.to_owned() }))
    }

    /// As [`WriteIds::begin`], but waits for a running write with the same id to end first.
    ///
    /// # Errors
    /// As [`WriteIds::begin`]; `Conflict` when the other one takes too long.
    pub(crate) async fn begin_in_turn(
        self: &Arc<Self>,
        id: &str,
        mode: &str,
        schema: &str,
        now_ms: i64,
    ) -> Result<Begun> {
        let deadline = tokio::time::Instant::now() + TURN_WAIT;
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on an end is not missed.
            ended.as_mut().enable();
            match self.begin(id, mode, schema, now_ms) {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    if tokio::time::timeout_at(deadline, ended).await.is_err() {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Notes that the ids were committed in `version`.
    pub(crate) fn finish(&self, version: u64, writes: &[(String, WriteRecord)]) {
        let mut inner = self.lock();
        for (id, record) in writes {
            inner.running.remove(id);
            inner.remember_fresh(id.clone(), KnownWrite { version, record: record.clone() });
        }
        if inner.seen + 1 == version {
            inner.seen = version;
        }
    }

    /// Whether enough versions have passed that a checkpoint should be written.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        let inner = self.lock();
        inner.seen >= inner.checkpointed + SEGMENT_VERSIONS
    }

    /// Checkpoints in a task of its own. Nothing is lost when that fails: the transactions hold the ids
    /// until the next checkpoint.
    pub(crate) fn checkpoint_in_background(self: Arc<Self>, now_ms: i64) {
        tokio::spawn(async move {
            let done = match self.checkpoint().await {
                Ok(()) => self.delete_old_segments(now_ms).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::info!(error = %error.report(), "write id checkpoint failed");
            }
        });
    }

    /// Writes what was learned since the last checkpoint. Runs in the background: until it is done the
    /// transactions themselves hold the truth.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let (first, last, entries) = {
            let inner = self.lock();
            if inner.seen <= inner.checkpointed {
                return Ok(());
            }
            let entries: Vec<SegmentEntry> = inner
                .fresh
                .iter()
                .filter_map(|id| {
                    let known = inner.known.get(id)?;
                    let KnownWrite { version, record } = known.clone();
                    (version <= inner.seen).then(|| SegmentEntry {
                        id: id.clone(),
                        version,
                        record,
                    })
                })
                .collect();
            (inner.checkpointed + 1, inner.seen, entries)
        };
        let bytes = serde_json::to_vec(&entries)
            .map_err(|error| Error::internal("encode write ids").with_source(error))?;
        let path = format!("{}/{first:020}-{last:020}.json", self.folder);
        self.system.put(&path, Bytes::from(bytes)).await?;
        let mut inner = self.lock();
        inner.checkpointed = inner.checkpointed.max(last);
        let written: HashSet<String> = entries.into_iter().map(|entry| entry.id).collect();
        inner.fresh.retain(|id| !written.contains(id));
        Ok(())
    }

    /// Deletes segments none of whose ids is remembered any more.
    pub(crate) async fn delete_old_segments(&self, now_ms: i64) -> Result<()> {
        let oldest = {
            let mut inner = self.lock();
            inner.forget_old(now_ms);
            let versions = inner.known.values().map(|known| known.version);
            versions.min().unwrap_or(inner.checkpointed)
        };
        let segments = self.system.list(&self.folder).await?;
        // The newest segment stays even when empty: it says how far transactions were read.
        for segment in segments.iter().rev().skip(1) {
            let last: Option<u64> = segment
                .path
                .strip_suffix(".json")
                .and_then(|name| name.rsplit('-').next())
                .and_then(|last| last.parse().ok());
            if last.is_some_and(|last| last < oldest) {
                self.system.delete(&segment.path).await?;
            }
        }
        Ok(())
    }
}

impl Inner {
    fn remember(&mut self, id: String, known: KnownWrite) {
        if self.known.insert(id.clone(), known).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > REMEMBERED_MAX {
            if let Some(old) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
    }

    fn remember_fresh(&mut self, id: String, known: KnownWrite) {
        if !self.known.contains_key(&id) {
            self.fresh.push(id.clone());
        }
        self.remember(id, known);
    }

    fn forget_old(&mut self, now_ms: i64) {
        while let Some(id) = self.order.front() {
            let is_old = self
                .known
                .get(id)
                .is_none_or(|known| known.record.at_ms.saturating_add(REMEMBERED_MS) < now_ms);
            if !is_old {
                break;
            }
            if let Some(id) = self.order.pop_front() {
                self.known.remove(&id);
            }
        }
    }
}

fn same_write(id: &str, known: &KnownWrite, mode: &str, schema: &str) -> Result<KnownWrite> {
    let differs = if known.record.mode != mode {
        "mode"
    } else if known.record.schema != schema {
        "schema"
    } else {
        return Ok(known.clone());
    };
    Err(Error::new(
        ErrorKind::AlreadyExists,
        format!("the write id `{id}` was used in version {} with another {differs}", known.version),
    ))
}

/// The properties by which a transaction carries its write ids.
pub(crate) fn to_properties(writes: &[(String, WriteRecord)]) -> Result<HashMap<String, String>> {
    writes
        .iter()
        .map(|(id, record)| {
            let text = serde_json::to_string(record)
                .map_err(|error| Error::internal("encode a write id").with_source(error))?;
            Ok((format!("{PROPERTY_PREFIX}{id}"), text))
        })
        .collect()
}

fn from_properties(properties: Option<&HashMap<String, String>>) -> Vec<(String, WriteRecord)> {
    properties
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            let id = key.strip_prefix(PROPERTY_PREFIX)?;
            Some((id.to_owned(), serde_json::from_str(value).ok()?))
        })
        .collect()
}

/// Whether a transaction carries a write of this mode.
pub(crate) fn wrote_as(properties: Option<&HashMap<String, String>>, mode: &str) -> bool {
    from_properties(properties).iter().any(|(_, record)| record.mode == mode)
}

/// The first version whose ids are not forgotten for their age.
async fn first_remembered(dataset: &Dataset, now_ms: i64) -> Result<u64> {
    let Some(time) = DateTime::from_timestamp_millis(now_ms.saturating_sub(REMEMBERED_MS)) else {
        return Ok(1);
    };
    match version_at(dataset, time).await {
        Ok(version) => Ok(version),
        // All are younger.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(1),
        Err(error) => Err(error),
    }
}
