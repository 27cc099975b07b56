//! Upserts that wait for their turn beside each other are merged together.
//!
//! ```text
//!   upsert ─► prepared ─┐
//!   upsert ─► prepared ─┼─► queue ─► mutation lock ─► one merge, one version ─► each its own answer
//!   upsert ─► prepared ─┘
//! ```
//!
//! It is as if they had come one after the other: of a key that several of them bring, the last one's row
//! counts, and only the first can have inserted it. Nobody waits on purpose: a group is what gathered
//! while another change of the branch ran. Where the rows of a group cannot be merged, each of it is
//! merged by itself, so that no upsert fails by another's rows. Where the store failed, all are told so: a
//! merge whose outcome is not known is not done again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_schema::Schema;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use tokio::sync::oneshot;

use crate::keys::KeyGuard;
use crate::lance_error::{StreamError, from_lance};
use crate::table::Branch;
use crate::upsert::{MergeOutcome, MergeRule, PreparedUpsert};

/// Upserts of one version.
const GROUP_MAX: usize = 256;
/// Rows and bytes of one upsert that may wait for others; what is larger has little to gain.
const ROWS_MAX: u64 = 8_192;
const BYTES_MAX: u64 = 4 << 20;
/// Rows and bytes of a group.
const GROUP_ROWS_MAX: u64 = 65_536;
const GROUP_BYTES_MAX: u64 = 32 << 20;
/// Bytes of write ids in one version.
const GROUP_PROPERTY_BYTES_MAX: usize = 64 << 10;

/// The version that made a row.
const CREATED_AT: &str = "_row_created_at_version";

/// An upsert that waits for its turn, and who waits for its outcome.
pub(crate) struct PendingUpsert {
    upsert: PreparedUpsert,
    done: oneshot::Sender<Result<MergeOutcome>>,
}

impl PreparedUpsert {
    /// Whether it is small and of the usual kind.
    pub(crate) async fn may_wait_for_others(&self) -> bool {
        self.rule == MergeRule::upsert()
            && self.keys.is_none()
            && self.spool.in_memory().is_some()
            && self.counted.rows() <= ROWS_MAX
            && self.counted.bytes() <= BYTES_MAX
            // Who inserted a row is read off what lance keeps beside stable row ids.
            && self.branch.current().await.manifest().uses_stable_row_ids()
    }

    /// Whether one merge can do both.
    fn goes_with(&self, other: &PreparedUpsert) -> bool {
        self.on == other.on && self.schema == other.schema
    }

    /// Commits together with those that wait beside it. One whose caller goes away before its turn is
    /// not done.
    pub(crate) async fn commit_with_others(self) -> Result<MergeOutcome> {
        let branch = Arc::clone(&self.branch);
        let (done, outcome) = oneshot::channel();
        branch.upserts.lock().await.push_back(PendingUpsert { upsert: self, done });
        tokio::spawn(branch.commit_upserts());
        outcome.await.map_err(|_| Error::internal("the commit task ended without an answer"))?
    }
}

impl Branch {
    async fn commit_upserts(self: Arc<Self>) {
        let _mutation = self.mutation.lock().await;
        let group = take_group(&mut *self.upserts.lock().await);
        if group.len() > 1 {
            metrics::histogram!("lakebed_commit_group_upserts").record(group.len() as f64);
            let outcomes = match Together::of(&group) {
                Ok(together) => together.commit(&group).await,
                // They do not go together after all, and nothing was tried.
                Err(error) => Err(Error::invalid("the rows cannot be joined").with_source(error)),
            };
            match outcomes {
                Err(error) if is_about_rows(&error) => {
                    tracing::debug!(error = %error.report(), "a group of upserts is taken apart");
                }
                Err(error) => {
                    let error = StreamError::new(&error);
                    for upsert in group {
                        let _ = upsert.done.send(Err(error.to_error()));
                    }
                    return;
                }
                Ok(outcomes) => {
                    for (upsert, outcome) in group.into_iter().zip(outcomes) {
                        let _ = upsert.done.send(Ok(outcome));
                    }
                    return;
                }
            }
        }
        for PendingUpsert { upsert, done } in group {
            let outcome = upsert.merge_on_newest().await;
            let _ = done.send(outcome.map(|(outcome, _)| outcome));
        }
    }
}

/// Takes the first that waits and those that go with it. The task of an earlier one may have taken all.
fn take_group(queue: &mut VecDeque<PendingUpsert>) -> Vec<PendingUpsert> {
    let mut group: Vec<PendingUpsert> = Vec::new();
    let mut left = VecDeque::new();
    let (mut rows, mut bytes, mut property_bytes) = (0, 0, 0);
    for next in queue.drain(..) {
        if next.done.is_closed() {
            continue;
        }
        let counted = &next.upsert.counted;
        let ids: usize = next.upsert.writes.iter().map(|(id, _)| id.len() + 256).sum();
        let fits = group.first().is_none_or(|first| {
            group.len() < GROUP_MAX
                && next.upsert.goes_with(&first.upsert)
                && rows + counted.rows() <= GROUP_ROWS_MAX
                && bytes + counted.bytes() <= GROUP_BYTES_MAX
                && property_bytes + ids <= GROUP_PROPERTY_BYTES_MAX
        });
        match fits {
            true => {
                rows += counted.rows();
                bytes += counted.bytes();
                property_bytes += ids;
                group.push(next);
            }
            false => left.push_back(next),
        }
    }
    *queue = left;
    group
}

/// Whether nothing was committed, and one of the group may be the reason.
fn is_about_rows(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidArgument | ErrorKind::Conflict | ErrorKind::NotImplemented
    )
}

/// A group as one upsert.
struct Together {
    keys: KeyGuard,
    sent: Vec<Sent>,
    whole: PreparedUpsert,
}

impl Together {
    fn of(group: &[PendingUpsert]) -> Result<Together> {
        let Some(PendingUpsert { upsert: first, .. }) = group.first() else {
            return Err(Error::internal("a group has no upsert"));
        };
        let keys = KeyGuard::new(&first.on, &first.schema, usize::MAX)?;
        let sent =
            group.iter().map(|it| Sent::of(&it.upsert, &keys)).collect::<Result<Vec<_>>>()?;
        let rows = last_of_each_key(&first.schema, &sent)?;
        let writes = group.iter().flat_map(|it| it.upsert.writes.clone()).collect();
        let whole = first.of_many(rows, writes);
        Ok(Together { keys, sent, whole })
    }

    /// Merges the group in one version; the outcome of each.
    async fn commit(self, group: &[PendingUpsert]) -> Result<Vec<MergeOutcome>> {
        let Together { keys, sent, whole } = self;
        let before = whole.branch.latest().await?;
        let (merged, committed) = whole.merge_on_newest().await?;
        let version = committed.version().version;
        let mut new = match (merged.inserted, merged.updated) {
            (0, _) => HashSet::new(),
            (_, 0) => sent.iter().flat_map(|sent| sent.keys.iter().copied()).collect(),
            _ => inserted_keys(&before, &committed, &keys).await.map_err(|error| {
                let message = format!(
                    "version {version} has the rows; how many were inserted could not be read"
                );
                Error::new(ErrorKind::CommitUnknown, message).with_source(error)
            })?,
        };
        let outcomes = group.iter().zip(sent).map(|(it, sent)| {
            let inserted = sent.keys.iter().filter(|key| new.remove(key)).count() as u64;
            MergeOutcome {
                receipt: it.upsert.counted.receipt(version),
                inserted,
                updated: sent.keys.len() as u64 - inserted,
                deleted: 0,
                attempts: merged.attempts,
            }
        });
        Ok(outcomes.collect())
    }
}

/// The rows of one upsert with a hash of each one's key.
struct Sent {
    rows: Vec<RecordBatch>,
    keys: Vec<u128>,
}

impl Sent {
    fn of(upsert: &PreparedUpsert, keys: &KeyGuard) -> Result<Sent> {
        let rows = upsert.spool.in_memory().unwrap_or_default().to_vec();
        let mut hashes = Vec::new();
        for batch in &rows {
            hashes.extend(keys.hashes(batch)?);
        }
        Ok(Sent { rows, keys: hashes })
    }
}

/// One batch with the last row of each key.
fn last_of_each_key(schema: &Arc<Schema>, sent: &[Sent]) -> Result<RecordBatch> {
    let failed = |error| Error::internal("join the rows of upserts").with_source(error);
    let all = concat_batches(schema, sent.iter().flat_map(|sent| &sent.rows)).map_err(failed)?;
    let keys = sent.iter().flat_map(|sent| sent.keys.iter().copied());
    let last: HashMap<u128, u64> = keys.zip(0..).collect();
    if last.len() == all.num_rows() {
        return Ok(all);
    }
    let mut places: Vec<u64> = last.into_values().collect();
    places.sort_unstable();
    take_record_batch(&all, &UInt64Array::from(places)).map_err(failed)
}

/// The keys of the rows that a version made.
async fn inserted_keys(
    before: &Dataset,
    committed: &Dataset,
    keys: &KeyGuard,
) -> Result<HashSet<u128>> {
    let old: HashSet<u64> = before.fragments().iter().map(|fragment| fragment.id).collect();
    let new = committed.fragments().iter().filter(|fragment| !old.contains(&fragment.id));
    let mut scanner = committed.scan();
    scanner.with_fragments(new.cloned().collect());
    scanner.project(keys.names()).map_err(from_lance)?;
    let version = committed.version().version;
    scanner.filter(&format!("{CREATED_AT} = {version}")).map_err(from_lance)?;
    let mut batches = scanner.try_into_stream().await.map_err(from_lance)?;
    let mut found = HashSet::new();
    while let Some(batch) = batches.next().await {
        found.extend(keys.hashes(&batch.map_err(from_lance)?)?);
    }
    Ok(found)
}
