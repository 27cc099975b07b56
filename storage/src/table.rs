//! One table folder and its branches.
//!
//! A [`Table`] is the meeting point of all requests for one table: it owns, for each branch that is in
//! use, the newest version as an immutable dataset, the commit queue, the mutation lock and the write
//! ids. There is one handle for a table in a process; [`crate::Lake`] keeps it.

use async_recursion::async_recursion as boxed;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lakebed_core::{Error, ErrorKind, Freshness, Result, Subject, nearest_names};
use lance::Dataset;
use lance::dataset::refs::BranchIdentifier;
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, RwLock};

use crate::branches::record_of;
use crate::catalog::Entry;
use crate::commit::PendingAppend;
use crate::compact::Rewrites;
use crate::gone_rows::GoneRows;
use crate::lake::Shared;
use crate::lance_error::from_lance;
use crate::pins::{Doomed, Pin, PinnedVersion};
use crate::servers::{Leader, begin_term, lost};
use crate::update_group::PendingUpdate;
use crate::upsert_group::PendingUpsert;
use crate::write_id::WriteIds;

/// How long the newest version is trusted before the store is asked whether another tool committed.
const TRUSTED_FOR: Duration = Duration::from_millis(500);

/// How long a change may keep the lead of a table from being given away.
const STAND_DOWN_MAX: Duration = Duration::from_secs(5);
/// How long a table may take to open, and a lead to be taken: others wait for both.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// One table.
#[derive(Debug)]
pub struct Table {
    pub(crate) shared: Arc<Shared>,
    pub(crate) entry: Entry,
    is_dropped: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
    branches: Mutex<HashMap<Option<String>, Arc<Branch>>>,
    /// What keeps deleted rows from searches of the version that was searched last.
    pub(crate) gone_rows: GoneRows,
    /// Held while a cursor is changed.
    pub(crate) cursors: Mutex<()>,
    /// Held while a branch is created or deleted.
    pub(crate) branching: Mutex<()>,
    /// Branches that this process deleted and whose folders may still be there.
    pub(crate) deleted_here: Mutex<BTreeSet<String>>,
}

/// One branch of a table; main is the branch without a name.
pub(crate) struct Branch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) entry: Entry,
    pub(crate) name: Option<String>,
    is_dropped: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
    /// Whether it was deleted, or another one of its name took its place.
    is_deleted: AtomicBool,
    /// Tells it from a later branch of its name; nothing for main.
    identifier: Option<BranchIdentifier>,
    /// The term in which this process leads the table, once it does. What is kept in memory holds in
    /// this term only: in a later one the table gets another handle.
    term: OnceCell<u64>,
    latest: RwLock<(Arc<Dataset>, Instant)>,
    pub(crate) queue: Mutex<VecDeque<PendingAppend>>,
    /// Small upserts that wait for the mutation lock.
    pub(crate) upserts: Mutex<VecDeque<PendingUpsert>>,
    /// Updates that wait for it.
    pub(crate) updates: Mutex<VecDeque<PendingUpdate>>,
    /// Held while a manifest is written.
    pub(crate) committing: Arc<Mutex<()>>,
    /// Held from reading the newest version to committing on it, by everything but appends.
    pub(crate) mutation: Arc<Mutex<()>>,
    /// Whether fragments may be rewritten.
    pub(crate) rewrites: Rewrites,
    /// Held while old versions are deleted.
    pub(crate) cleaning: Mutex<()>,
    write_ids: OnceCell<Arc<WriteIds>>,
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch")
            .field("location", &self.entry.location)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn new(shared: Arc<Shared>, entry: Entry) -> Self {
        Table {
            shared,
            entry,
            is_dropped: Arc::default(),
            is_lost: Arc::default(),
            branches: Mutex::new(HashMap::new()),
            gone_rows: GoneRows::default(),
            cursors: Mutex::default(),
            branching: Mutex::default(),
            deleted_here: Mutex::default(),
        }
    }

    /// Where the table's folder lies, relative to the lake's root.
    pub fn location(&self) -> &str {
        &self.entry.location
    }

    /// Differs between a table and a later one of the same name.
    pub fn uid(&self) -> &str {
        &self.entry.uid
    }

    /// Makes sure that what is answered next from a branch is as new as asked for; the store is asked
    /// only where what is known may be older.
    ///
    /// # Errors
    /// `Conflict` when the branch has no such version yet, `NotFound` for an unknown branch.
    #[boxed]
    pub async fn catch_up(&self, branch: Option<&str>, freshness: &Freshness) -> Result<()> {
        let branch = self.branch(branch).await?;
        let version_min = freshness.version_min.unwrap_or(0);
        let age_max = freshness.looked_up_ms_min.map(|at_ms| {
            let age_ms = self.shared.clock.now_ms().saturating_sub(at_ms);
            Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
        });
        let (known, looked_up) = branch.latest.read().await.clone();
        let is_new = age_max.is_none_or(|age_max| looked_up.elapsed() <= age_max);
        if is_new && known.version().version >= version_min {
            return Ok(());
        }
        let newest = branch.look().await?.version().version;
        if newest >= version_min {
            return Ok(());
        }
        let message = format!("version {version_min} is not there yet; the newest is {newest}");
        Err(Error::new(ErrorKind::Conflict, message).about(Subject::Version))
    }

    /// The newest version of a branch that this process knows, without asking the store where the branch
    /// is open.
    ///
    /// # Errors
    /// `NotFound` naming the nearest branches.
    #[boxed]
    pub async fn newest_known_version(&self, branch: Option<&str>) -> Result<u64> {
        Ok(self.branch(branch).await?.current().await.version().version)
    }

    /// The branch of that name; main without one.
    ///
    /// # Errors
    /// `NotFound` naming the nearest branches.
    pub(crate) async fn branch(&self, name: Option<&str>) -> Result<Arc<Branch>> {
        let name = name.filter(|name| *name != "main");
        let mut branches = self.branches.lock().await;
        if let Some(branch) = branches.get(&name.map(str::to_owned))
            && !branch.is_deleted.load(Ordering::SeqCst)
        {
            return Ok(branch.clone());
        }
        let opened = self.shared.open_dataset(&self.entry.location, name);
        let opened = match tokio::time::timeout(OPEN_MAX, opened).await {
            Ok(opened) => opened,
            // Whoever waits for this table waits for this.
            Err(_) => {
                self.shared.give_up(&self.entry.uid).await;
                Err(too_slow("the table was not opened"))
            }
        };
        let dataset = match opened {
            Ok(dataset) => dataset,
            Err(error) if error.kind() == ErrorKind::NotFound && name.is_some() => {
                return Err(self.unknown_branch(name.unwrap_or_default()).await);
            }
            Err(error) => return Err(error.context("open the table")),
        };
        // Without its record a branch is not there, whatever lies in its folder.
        let identifier = match name {
            None => None,
            Some(name) => match record_of(&dataset, name).await? {
                Some(record) => Some(record.identifier),
                None => return Err(self.unknown_branch(name).await),
            },
        };
        let branch = Arc::new(Branch {
            shared: self.shared.clone(),
            entry: self.entry.clone(),
            name: name.map(str::to_owned),
            is_dropped: self.is_dropped.clone(),
            is_lost: self.is_lost.clone(),
            is_deleted: AtomicBool::new(false),
            identifier,
            term: OnceCell::new(),
            latest: RwLock::new((Arc::new(dataset), Instant::now())),
            queue: Mutex::default(),
            upserts: Mutex::default(),
            updates: Mutex::default(),
            committing: Arc::default(),
            mutation: Arc::default(),
            rewrites: Rewrites::default(),
            cleaning: Mutex::default(),
            write_ids: OnceCell::new(),
        });
        branches.insert(branch.name.clone(), branch.clone());
        Ok(branch)
    }

    /// Keeps a version of a branch while it is about to be named or read.
    ///
    /// # Errors
    /// `NotFound` when it, or the whole table, is being deleted.
    pub(crate) fn pin(&self, branch: Option<&str>, version: u64) -> Result<(PinnedVersion, Pin)> {
        let pinned = PinnedVersion {
            location: self.entry.location.clone(),
            branch: branch.filter(|name| *name != "main").map(str::to_owned),
            version,
        };
        match self.shared.pins.pin(pinned.clone()) {
            Ok(pin) => Ok((pinned, pin)),
            Err(Doomed::Table) => Err(Error::not_found("the table was dropped")),
            Err(Doomed::Version) => {
                Err(Error::not_found(format!("version {version} was cleaned"))
                    .about(Subject::Version))
            }
        }
    }

    /// Opens a branch anew when it is asked for next.
    pub(crate) async fn forget_branch(&self, name: &str) {
        self.branches.lock().await.remove(&Some(name.to_owned()));
    }

    /// Notes that the table was dropped: nothing is committed to it any more.
    pub(crate) fn set_dropped(&self) {
        self.is_dropped.store(true, Ordering::SeqCst);
    }

    /// Whether another server took the lead since this process had it: nothing that this handle keeps
    /// in memory holds any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Changes nothing through this handle from here on; what was being changed is over.
    ///
    /// # Errors
    /// `Busy` when a change takes long; nothing is different then.
    pub(crate) async fn stand_down(&self) -> Result<Vec<OwnedMutexGuard<()>>> {
        let branches: Vec<Arc<Branch>> = self.branches.lock().await.values().cloned().collect();
        let mut quiet = Vec::new();
        for branch in branches {
            let still = async {
                let mutation = Arc::clone(&branch.mutation).lock_owned().await;
                (mutation, Arc::clone(&branch.committing).lock_owned().await)
            };
            let (mutation, committing) =
                tokio::time::timeout(STAND_DOWN_MAX, still).await.map_err(|_| {
                    Error::new(ErrorKind::Busy, "the table is being changed")
                        .with_retry_after_ms(1_000)
                })?;
            quiet.extend([mutation, committing]);
        }
        self.is_lost.store(true, Ordering::SeqCst);
        Ok(quiet)
    }

    pub(crate) async fn unknown_branch(&self, wanted: &str) -> Error {
        let known = match self.shared.open_dataset(&self.entry.location, None).await {
            Ok(main) => main.list_branches().await.unwrap_or_default(),
            Err(_) => HashMap::new(),
        };
        let near = nearest_names(wanted, known.keys().map(String::as_str));
        Error::not_found(format!("branch `{wanted}` does not exist{near}")).about(Subject::Branch)
    }

    /// Writes what is only in memory.
    pub(crate) async fn flush(&self) {
        let branches: Vec<Arc<Branch>> = self.branches.lock().await.values().cloned().collect();
        for branch in branches {
            if let Some(ids) = branch.loaded_write_ids().await
                && let Err(error) = ids.checkpoint().await
            {
                // Nothing is lost: the transactions hold the ids.
                tracing::info!(error = %error.report(), "write id checkpoint failed");
            }
        }
    }
}

/// What is told where the store, or this process, is stuck.
fn too_slow(what: &str) -> Error {
    let message = format!("{what} within {} seconds", OPEN_MAX.as_secs());
    Error::new(ErrorKind::Unavailable, message).with_retry_after_ms(1_000)
}

impl Branch {
    /// Keeps the table's folder while something is written into it: were it deleted meanwhile, the
    /// files would come to lie in the folder of the next table of that name.
    ///
    /// On a lake with several servers this one leads the table from here on.
    ///
    /// # Errors
    /// `NotFound` when the table was dropped, `Unavailable` when another server leads it.
    pub(crate) async fn hold(&self) -> Result<Pin> {
        self.lead().await?;
        let newest = PinnedVersion {
            location: self.entry.location.clone(),
            branch: self.name.clone(),
            version: self.current().await.version().version,
        };
        let pin = self.shared.pins.pin_to_write(newest, self.shared.clock.now_ms());
        // In this order: a drop sets the mark before it looks for pins.
        match pin {
            Ok(_) if self.is_deleted.load(Ordering::SeqCst) => {
                Err(Error::not_found("the branch was deleted").about(Subject::Branch))
            }
            Ok(pin) if !self.is_dropped.load(Ordering::SeqCst) => Ok(pin),
            Err(Doomed::Version) => {
                Err(Error::new(ErrorKind::Conflict, "another server or tool has newer versions"))
            }
            _ => Err(Error::not_found("the table was dropped")),
        }
    }

    /// Makes sure that this server leads the table, where the lake has several.
    ///
    /// # Errors
    /// `Unavailable` when another one leads it, or when the store does not answer.
    async fn lead(&self) -> Result<()> {
        let Some(servers) = self.shared.servers.get() else { return Ok(()) };
        if self.is_lost.load(Ordering::SeqCst) {
            return Err(lost());
        }
        let number = match servers.lead(&self.entry.uid).await? {
            Leader::Here { term } => term,
            Leader::There(other) => {
                // What was kept from the time before is as good as lost.
                self.is_lost.fetch_or(self.term.initialized(), Ordering::SeqCst);
                let message = format!("the server at {} leads the table", other.http);
                return Err(Error::new(ErrorKind::Unavailable, message).with_retry_after_ms(100));
            }
        };
        let begun =
            self.term.get_or_try_init(|| async { begin_term(self, number).await.map(|()| number) });
        let Ok(begun) = tokio::time::timeout(OPEN_MAX, begun).await else {
            self.shared.give_up(&self.entry.uid).await;
            return Err(too_slow("the lead was not taken"));
        };
        if *begun? != number {
            self.is_lost.store(true, Ordering::SeqCst);
            return Err(lost());
        }
        Ok(())
    }

    /// As [`Branch::hold`], and asks the store whether this server leads: for what no commit guards, such as
    /// a tag that keeps a version from being cleaned by whoever leads.
    ///
    /// # Errors
    /// As [`Branch::hold`].
    pub(crate) async fn lead_surely(&self) -> Result<Pin> {
        let pin = self.hold().await?;
        match self.still_leads().await? {
            true => Ok(pin),
            false => Err(lost()),
        }
    }

    /// Whether the store still says that this server leads the table; true where nobody else could.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub(crate) async fn still_leads(&self) -> Result<bool> {
        match (self.shared.servers.get(), self.term()) {
            (Some(servers), Some(term)) => servers.still_leads(&self.entry.uid, term).await,
            (Some(_), None) => Ok(false),
            (None, _) => Ok(true),
        }
    }

    /// The term in which commits are made, where the lake has several servers.
    pub(crate) fn term(&self) -> Option<u64> {
        self.term.get().copied()
    }

    /// The newest version this process knows, without asking the store.
    pub(crate) async fn current(&self) -> Arc<Dataset> {
        self.latest.read().await.0.clone()
    }

    /// The newest version, asking the store when the last answer is old.
    pub(crate) async fn latest(&self) -> Result<Arc<Dataset>> {
        {
            let latest = self.latest.read().await;
            if latest.1.elapsed() < TRUSTED_FOR {
                return Ok(latest.0.clone());
            }
        }
        self.look().await
    }

    /// The newest version with what is planned on it. What does not fit the one that is known is planned on
    /// the one in the store, which another tool may just have committed.
    pub(crate) async fn latest_for<T>(
        &self,
        plan: impl Fn(&Dataset) -> Result<T>,
    ) -> Result<(Arc<Dataset>, T)> {
        let mut latest = self.latest().await?;
        let mut planned = plan(&latest);
        if planned.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidArgument) {
            latest = self.look().await?;
            planned = plan(&latest);
        }
        Ok((latest, planned?))
    }

    /// The newest version, asking the store.
    async fn look(&self) -> Result<Arc<Dataset>> {
        let asked = Instant::now();
        let current = self.current().await;
        self.check_is_there(&current).await?;
        let newest = current.latest_version_id().await.map_err(from_lance)?;
        if newest == current.version().version {
            self.latest.write().await.1 = asked;
            return Ok(current);
        }
        let dataset = Arc::new(self.open_latest().await?);
        self.publish(dataset).await;
        Ok(self.current().await)
    }

    /// Refuses a branch that was deleted, by whichever server or tool.
    async fn check_is_there(&self, current: &Dataset) -> Result<()> {
        let (Some(name), Some(identifier)) = (&self.name, &self.identifier) else { return Ok(()) };
        if !self.is_deleted.load(Ordering::SeqCst) {
            let record = record_of(current, name).await?;
            if record.is_some_and(|record| record.identifier == *identifier) {
                return Ok(());
            }
            self.is_deleted.store(true, Ordering::SeqCst);
        }
        let message = format!("branch `{name}` was deleted");
        Err(Error::not_found(message).about(Subject::Branch))
    }

    /// Ends all changes of a branch that is to be deleted; none begins from here on.
    ///
    /// # Errors
    /// `Busy` when a change takes longer than `wait_max`; nothing is different then.
    pub(crate) async fn set_deleted(&self, wait_max: Duration) -> Result<Vec<OwnedMutexGuard<()>>> {
        let still = async {
            let mutation = Arc::clone(&self.mutation).lock_owned().await;
            vec![mutation, Arc::clone(&self.committing).lock_owned().await]
        };
        let quiet = tokio::time::timeout(wait_max, still).await.map_err(|_| {
            Error::new(ErrorKind::Busy, "the branch is being changed").with_retry_after_ms(1_000)
        })?;
        self.is_deleted.store(true, Ordering::SeqCst);
        Ok(quiet)
    }

    /// Opens the newest version from the store.
    pub(crate) async fn open_latest(&self) -> Result<Dataset> {
        let mut dataset = Dataset::clone(&*self.current().await);
        dataset.checkout_latest().await.map_err(from_lance)?;
        Ok(dataset)
    }

    /// Makes a committed version the newest one that requests see; never goes back.
    pub(crate) async fn publish(&self, dataset: Arc<Dataset>) {
        let mut latest = self.latest.write().await;
        if dataset.version().version >= latest.0.version().version {
            *latest = (dataset, Instant::now());
        }
    }

    /// The write ids of this branch, read once.
    pub(crate) async fn write_ids(&self) -> Result<Arc<WriteIds>> {
        self.write_ids
            .get_or_try_init(|| async {
                let dataset = self.latest().await?;
                let branch = self.name.as_deref().unwrap_or("main");
                let now_ms = self.shared.clock.now_ms();
                WriteIds::load(&self.shared.system, &self.entry.uid, branch, &dataset, now_ms).await
            })
            .await
            .cloned()
    }

    /// The write ids where they were asked for before.
    pub(crate) async fn loaded_write_ids(&self) -> Option<Arc<WriteIds>> {
        self.write_ids.get().cloned()
    }
}
