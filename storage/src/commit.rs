//! How anything becomes visible: the only place that commits.
//!
//! ```text
//!   append ─► files written ─► synced ─┐
//!   append ─► files written ─► synced ─┼─► queue ─► one version for all that wait ─► receipts
//!   append ─► files written ─► synced ─┘
//!   upsert, delete, overwrite, restore, index ─► mutation lock ─► built on latest ─► synced ─► version
//! ```
//!
//! What always holds: the files of a transaction are on disk before its manifest is written, and the
//! manifest is on disk before anybody is answered. Appends that wait while another commit runs go into
//! one version together; nobody waits on purpose. Everything else on a branch is built and committed
//! under its mutation lock, one after the other, because two of them could touch the same rows. Appends
//! pass beside it: lance lets them commute.
//!
//! A commit whose outcome is not known is looked up by the transaction's uuid, never sent again blindly.

use std::collections::HashMap;
use std::sync::Arc;

use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, Transaction};
use lance_table::format::Fragment;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::durable::{DurableCommitHandler, sync_file, sync_transaction};
use crate::lake::Shared;
use crate::lance_error::{StreamError, from_lance};
use crate::materialized::check_commit;
use crate::servers::Term;
use crate::stamps::LeftOut;
use crate::table::Branch;
use crate::write_id::{WriteRecord, to_properties};

/// Times that a change of rows is built again because another server committed in between.
pub(crate) const TRIES_MAX: u32 = 10;
/// Appends that are committed in one version.
const GROUP_MAX: usize = 256;
/// How far a version's time is put after the one before it where the clock is behind: little enough
/// that it is never ahead of a clock that is right.
pub(crate) const TIME_STEP_NANOS: u128 = 1_000;
/// A transaction's copy inside the manifest stays below this many bytes of write ids.
const GROUP_PROPERTY_BYTES_MAX: usize = 64 << 10;

/// An append whose files are written and synced, waiting to be committed.
pub(crate) struct PendingAppend {
    transaction: Transaction,
    write: Option<(String, WriteRecord)>,
    done: oneshot::Sender<Result<u64>>,
}

/// The turn to commit on a branch, while it lives.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

/// Selects the rows that a delete or an update touched, so that two that touch different rows of one
/// fragment do not conflict.
pub(crate) type AffectedRows = lance_select::RowAddrTreeMap;

impl Branch {
    /// Commits an append together with those that wait beside it; returns the version.
    ///
    /// The commit runs in a task of its own: a caller that goes away cannot cut it in half.
    pub(crate) async fn commit_append(
        self: &Arc<Self>,
        transaction: Transaction,
        write: Option<(String, WriteRecord)>,
    ) -> Result<u64> {
        self.sync(&transaction).await?;
        let (done, outcome) = oneshot::channel();
        self.queue.lock().await.push_back(PendingAppend { transaction, write, done });
        let branch = self.clone();
        tokio::spawn(async move { branch.commit_queue().await });
        outcome.await.map_err(|_| Error::internal("the commit task ended without an answer"))?
    }

    async fn commit_queue(self: Arc<Self>) {
        let _turn = self.turn().await;
        let group = self.take_group().await;
        if group.is_empty() {
            return; // the task of an earlier append took ours along
        }
        match self.commit_group(&group).await {
            Ok(version) => {
                for append in group {
                    let _ = append.done.send(Ok(version));
                }
            }
            Err(error) if group.len() > 1 && error.kind() == ErrorKind::Conflict => {
                // One of them does not fit what was committed meanwhile; the others must not suffer.
                for append in group {
                    let outcome = self.commit_group(std::slice::from_ref(&append)).await;
                    let _ = append.done.send(outcome);
                }
            }
            Err(error) => {
                let error = StreamError::new(&error);
                for append in group {
                    let _ = append.done.send(Err(error.to_error()));
                }
            }
        }
    }

    async fn take_group(&self) -> Vec<PendingAppend> {
        let mut queue = self.queue.lock().await;
        let mut group: Vec<PendingAppend> = Vec::new();
        let mut property_bytes = 0;
        while let Some(next) = queue.front()
            && group.len() < GROUP_MAX
        {
            property_bytes += next.write.as_ref().map_or(0, |(id, _)| id.len() + 256);
            if !group.is_empty() && property_bytes > GROUP_PROPERTY_BYTES_MAX {
                break;
            }
            group.extend(queue.pop_front());
        }
        group
    }

    async fn commit_group(&self, group: &[PendingAppend]) -> Result<u64> {
        let mut fragments: Vec<Fragment> = Vec::new();
        let mut read_version = u64::MAX;
        let mut writes: Vec<(String, WriteRecord)> = Vec::new();
        for append in group {
            let Operation::Append { fragments: new } = &append.transaction.operation else {
                return Err(Error::internal("only appends can be committed as a group"));
            };
            fragments.extend(new.iter().cloned());
            read_version = read_version.min(append.transaction.read_version);
            writes.extend(append.write.clone());
        }
        // Built by hand: lance's execute_batch drops the properties of the transactions and of the
        // builder, and with them the write ids.
        let merged = Transaction::new(read_version, Operation::Append { fragments }, None);
        let dataset = self.commit_built(merged, &writes, None).await?;
        metrics::histogram!("lakebed_commit_group_appends").record(group.len() as f64);
        Ok(dataset.version().version)
    }

    /// Takes the turn to commit: nothing else of this process commits on the branch while it is held.
    pub(crate) async fn turn(&self) -> Turn {
        Turn(self.committing.clone().lock_owned().await)
    }

    /// Commits what must see every row that was committed before it, such as an upsert: an append in
    /// between could have brought its key. `turn` is given when it was taken before the newest version
    /// was read.
    ///
    /// # Errors
    /// `Conflict` when the version that the transaction was built on is not the newest any more.
    pub(crate) async fn commit_on_newest(
        self: &Arc<Self>,
        transaction: Transaction,
        writes: Vec<(String, WriteRecord)>,
        affected_rows: Option<AffectedRows>,
        turn: Option<Turn>,
    ) -> Result<Arc<Dataset>> {
        self.sync(&transaction).await?;
        let branch = self.clone();
        tokio::spawn(async move {
            let _turn = match turn {
                Some(turn) => turn,
                None => branch.turn().await,
            };
            if branch.current().await.version().version != transaction.read_version {
                return Err(Error::new(ErrorKind::Conflict, "rows were appended meanwhile"));
            }
            branch.commit_built(transaction, &writes, affected_rows).await
        })
        .await
        .map_err(|error| Error::internal("the commit task failed").with_source(error))?
    }

    /// Syncs, commits and publishes a transaction that was built on a recent version of this branch.
    /// The caller holds the mutation lock unless the transaction is an append.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        transaction: Transaction,
        writes: Vec<(String, WriteRecord)>,
        affected_rows: Option<AffectedRows>,
    ) -> Result<Arc<Dataset>> {
        self.sync(&transaction).await?;
        let branch = self.clone();
        // A task of its own, so that a caller that goes away cannot cut the commit in half.
        tokio::spawn(async move {
            let _turn = branch.turn().await;
            branch.commit_built(transaction, &writes, affected_rows).await
        })
        .await
        .map_err(|error| Error::internal("the commit task failed").with_source(error))?
    }

    async fn sync(&self, transaction: &Transaction) -> Result<()> {
        let dataset = self.current().await;
        match self.shared.root.folder_of(&dataset.branch_location().path)? {
            Some(folder) => {
                let root = self.shared.root.local().unwrap_or(&folder);
                sync_transaction(transaction, &folder, root).await
            }
            None => Ok(()),
        }
    }

    async fn commit_built(
        &self,
        mut transaction: Transaction,
        writes: &[(String, WriteRecord)],
        affected_rows: Option<AffectedRows>,
    ) -> Result<Arc<Dataset>> {
        if !writes.is_empty() {
            let mut properties: HashMap<String, String> =
                transaction.transaction_properties.as_deref().cloned().unwrap_or_default();
            properties.extend(to_properties(writes)?);
            transaction.transaction_properties = Some(Arc::new(properties));
        }
        let started = std::time::Instant::now();
        // Here too, because whoever asked for the commit may be gone, and what it held with it.
        let _pin = self.hold().await?;
        let dataset = self.current().await;
        check_commit(&dataset, &transaction)?;
        let term = self.term().map(|number| Term {
            number,
            is_rebuilt: matches!(
                transaction.operation,
                Operation::Restore { .. } | Operation::Overwrite { .. }
            ),
        });
        self.wait_out_the_clock(&dataset).await;
        let not_before_nanos = dataset.manifest().timestamp_nanos.saturating_add(TIME_STEP_NANOS);
        let stamps_bytes_max = self.shared.limits.stamps_bytes_max;
        let left_out = Some(LeftOut::of(&mut transaction, dataset.fragments()));
        let handler = DurableCommitHandler { not_before_nanos, term, stamps_bytes_max, left_out };
        let mut builder = CommitBuilder::new(dataset.clone())
            .with_commit_handler(Arc::new(handler))
            .with_skip_auto_cleanup(true);
        if let Some(rows) = affected_rows {
            builder = builder.with_affected_rows(rows);
        }
        let committed = match builder.execute(transaction.clone()).await {
            Ok(committed) => committed,
            Err(error) if error.is_commit_status_unknown() => {
                self.find_committed(&transaction, dataset.version().version, error).await?
            }
            Err(error) => {
                let error = from_lance(error);
                if error.kind() == ErrorKind::Conflict {
                    // Another server or tool was first; who tries again has to see its version.
                    self.publish(Arc::new(self.open_latest().await?)).await;
                }
                return Err(error);
            }
        };
        let committed = Arc::new(committed);
        let version = committed.version().version;
        self.publish(committed.clone()).await;
        sync_versions(&self.shared, &committed.branch_location().path).await?;
        if let Some(ids) = self.loaded_write_ids().await {
            ids.finish(version, writes);
            if ids.wants_checkpoint() {
                ids.checkpoint_in_background(self.shared.clock.now_ms());
            }
        }
        metrics::histogram!("lakebed_commit_seconds").record(started.elapsed().as_secs_f64());
        Ok(committed)
    }

    /// Waits out a clock that stepped back by little. What it is behind by more is not waited for: the
    /// version gets a time just after the one before it, because times that rise can be searched.
    async fn wait_out_the_clock(&self, dataset: &Dataset) {
        const WAIT_MS_MAX: i64 = 2_000;
        let behind_ms = dataset
            .version()
            .timestamp
            .timestamp_millis()
            .saturating_sub(self.shared.clock.now_ms());
        if behind_ms > WAIT_MS_MAX {
            tracing::warn!(behind_ms, "the clock is behind the newest commit");
        } else if behind_ms >= 0 {
            let wait_ms = behind_ms.saturating_add(1).unsigned_abs();
            tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
        }
    }

    /// Finds out whether a transaction whose commit had no clear answer is in the history.
    async fn find_committed(
        &self,
        transaction: &Transaction,
        before: u64,
        error: lance::Error,
    ) -> Result<Dataset> {
        let latest = self.open_latest().await.map_err(|lookup| {
            from_lance(error).context(format!("look for the commit: {}", lookup.message()))
        })?;
        for version in before + 1..=latest.version().version {
            let found = latest.read_transaction_by_version(version).await.map_err(from_lance)?;
            if found.is_some_and(|found| found.uuid == transaction.uuid) {
                return latest.checkout_version(version).await.map_err(from_lance);
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "the store failed during the commit; it was looked up and did not happen",
        )
        .with_retry_after_ms(1_000))
    }
}

/// Makes sure of the entry of a manifest below `base`, a table's folder. The put of the manifest synced
/// it, but a put that failed there is tried again by lance, finds its own manifest and says that all is
/// well.
///
/// # Errors
/// `CommitUnknown` when the folder cannot be synced.
pub(crate) async fn sync_versions(shared: &Shared, base: &object_store::path::Path) -> Result<()> {
    let Some(folder) = shared.root.folder_of(base)? else { return Ok(()) };
    tokio::task::spawn_blocking(move || sync_file(&folder.join("_versions")))
        .await
        .map_err(|error| Error::internal("sync task failed").with_source(error))?
        .map_err(|error| {
            let message = "the version is visible and may not be durable";
            Error::new(ErrorKind::CommitUnknown, message).with_source(error)
        })
}
