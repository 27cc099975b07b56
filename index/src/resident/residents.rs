//! Which columns have a resident index: those that somebody asked for, and those that are searched often,
//! as far as memory allows.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lakebed_core::{Clock, DistanceType, Error, ErrorKind, QueryVectors, Result};
use lakebed_storage::{Projection, Ranking, SearchSpec, Snapshot, VectorQuery};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::build::{Builders, Progress};
use super::graph::GraphParams;
use super::index::{At, Follow, Means, Passes, ResidentIndex, ResidentKey};
use super::nearest::Hit;
use super::quantiser::stride_of;
use super::read;
use super::segment::Way;

/// Rows that a search may ask for; for more, a scan of the table's index costs little beside them.
const K_MAX: u64 = 1_000;
/// Candidates, at most.
const EF_MAX: u64 = 10_000;
/// Bytes of a row beside its code: its neighbours, and its share of the layers above. Few rows have all the
/// neighbours that they may: of word vectors these were 95, of pictures 55.
const GRAPH_BYTES_PER_ROW: u64 = 100;
/// For so long searches are counted before the count begins anew.
const HOT_WINDOW_MS: i64 = 600_000;
/// After so many searches it is looked whether new rows took more memory than there is.
const EVICT_EVERY: u64 = 1_024;
/// Columns that are counted at a time.
const COUNTED_MAX: usize = 10_000;

/// How many resident indexes there may be.
#[derive(Debug, Clone)]
pub struct ResidentOptions {
    /// Bytes that all of them may take; 0 for none at all.
    pub memory_bytes_max: u64,
    /// Where they are kept for a restart.
    pub folder: PathBuf,
    /// Whether that folder goes with the server.
    pub is_temporary: bool,
    /// Threads that build.
    pub threads: usize,
    /// Searches within ten minutes that make a column hot; 0 if none are.
    pub hot_searches: u64,
}

/// What one is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidentState {
    /// It is built; searches go to the table's own indexes meanwhile.
    Building,
    /// It answers.
    Ready,
    /// It could not be built.
    Failed,
}

/// What is told of one.
#[derive(Debug, Clone, Serialize)]
pub struct ResidentStatus {
    /// The column.
    pub column: String,
    /// The branch; absent for main.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// What it is doing.
    pub state: ResidentState,
    /// Whether somebody asked for it; else it is there because its column is searched often.
    pub requested: bool,
    /// How distances are measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance: Option<DistanceType>,
    /// The newest version that it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Rows that can be found; while it is built, rows that were read.
    pub rows: u64,
    /// Of these, rows that a graph leads to; the others are compared one by one.
    pub graph_rows: u64,
    /// Rows that are masked until segments are joined.
    pub masked_rows: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// Searches that it answered.
    pub searches: u64,
    /// Why it could not be built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Rows that a resident index found.
#[derive(Debug, Clone)]
pub struct ResidentFound {
    /// The rows, nearest first.
    pub hits: Vec<Hit>,
    /// How they were found.
    pub way: Way,
    /// The name of the index in reports.
    pub name: String,
    /// Rows that a graph leads to.
    pub graph_rows: u64,
    /// Rows that were compared one by one.
    pub compared_rows: u64,
}

/// What came of asking an index.
enum Answered {
    Found(ResidentFound),
    /// It does not show the version any more.
    Not,
    /// It has to follow it first.
    Far,
}

enum Entry {
    Building { progress: Arc<Progress>, is_requested: bool },
    Ready(Arc<ResidentIndex>),
    Failed { why: String, is_requested: bool },
}

/// The resident indexes of a server.
pub struct Residents {
    options: ResidentOptions,
    clock: Arc<dyn Clock>,
    builders: Arc<Builders>,
    entries: Mutex<HashMap<ResidentKey, Entry>>,
    /// Searches of columns without one: since when, and how many.
    counts: Mutex<HashMap<ResidentKey, (i64, u64)>>,
    /// Columns whose files were looked for.
    looked: Mutex<HashSet<ResidentKey>>,
}

impl fmt::Debug for Residents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Residents").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Drop for Residents {
    fn drop(&mut self) {
        if self.options.is_temporary {
            super::files::delete(&self.options.folder);
        }
    }
}

impl Residents {
    /// None yet; those that are on disk are read when their column is first searched.
    ///
    /// # Errors
    /// `Internal` when the system gives no threads.
    pub fn start(options: ResidentOptions, clock: Arc<dyn Clock>) -> Result<Arc<Residents>> {
        let builders = Arc::new(Builders::start(options.threads)?);
        Ok(Arc::new(Residents {
            options,
            clock,
            builders,
            entries: Mutex::default(),
            counts: Mutex::default(),
            looked: Mutex::default(),
        }))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ResidentKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn means(&self, key: &ResidentKey) -> Means {
        let own = xxh3_64(format!("{:?}/{}", key.branch, key.column).as_bytes());
        Means {
            folder: self.options.folder.join(&key.table_uid).join(format!("{own:016x}")),
            params: GraphParams::default(),
            builders: Arc::clone(&self.builders),
        }
    }

    /// Begins to build the index of a column because somebody asked for it. One that is there already is
    /// kept from now on.
    ///
    /// # Errors
    /// `NotFound` for the column; `InvalidArgument` for one that can have none, or that would take more memory
    /// than there is for all; `AlreadyExists` for another distance than that of the one that is there.
    pub async fn create(
        self: &Arc<Self>,
        snapshot: Snapshot,
        column: &str,
        distance: Option<DistanceType>,
    ) -> Result<()> {
        let key = ResidentKey::of(&snapshot, column);
        self.check_size(&snapshot, column).await?;
        let known = match self.entries().get_mut(&key) {
            Some(Entry::Ready(index)) => Some(Arc::clone(index)),
            Some(Entry::Building { is_requested, .. }) => {
                // Whoever builds it takes note when it is done.
                *is_requested = true;
                return Ok(());
            }
            _ => None,
        };
        if let Some(index) = known {
            if let Some(distance) = distance.filter(|distance| *distance != index.distance()) {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "the resident index of `{column}` measures {}, not {}: drop it first",
                        index.distance().name(),
                        distance.name()
                    ),
                ));
            }
            index.is_requested.store(true, Ordering::Relaxed);
            return index.save().await;
        }
        let distance = match distance {
            Some(distance) => distance,
            None => read::distance_of(&snapshot, column).await?,
        };
        if !matches!(distance, DistanceType::L2 | DistanceType::Cosine) {
            return Err(Error::invalid(format!(
                "a resident index measures l2 or cosine, not {}",
                distance.name()
            )));
        }
        self.begin(snapshot, key, distance, true);
        Ok(())
    }

    async fn check_size(&self, snapshot: &Snapshot, column: &str) -> Result<u64> {
        let code = stride_of(read::dimension(snapshot, column)?) as u64;
        let rows = snapshot.count_rows().await?;
        let bytes = rows * (code + GRAPH_BYTES_PER_ROW);
        let most = self.options.memory_bytes_max;
        if bytes > most {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "a resident index of `{column}` takes about {bytes} bytes, and there are \
                     resident_index_bytes_max = {most} for all"
                ),
            ));
        }
        Ok(bytes)
    }

    fn begin(
        self: &Arc<Self>,
        snapshot: Snapshot,
        key: ResidentKey,
        distance: DistanceType,
        is_requested: bool,
    ) {
        let progress = Arc::new(Progress::default());
        {
            let mut entries = self.entries();
            if matches!(entries.get(&key), Some(Entry::Building { .. })) {
                return;
            }
            let entry = Entry::Building { progress: Arc::clone(&progress), is_requested };
            entries.insert(key.clone(), entry);
        }
        let residents = Arc::clone(self);
        tokio::spawn(async move {
            let began = Instant::now();
            let means = residents.means(&key);
            let built = ResidentIndex::build(
                &snapshot,
                &key.column,
                distance,
                means,
                &progress,
                is_requested,
            );
            match built.await {
                Ok(index) => {
                    let rows = index.newest().rows();
                    tracing::info!(
                        table = snapshot.table().uid(),
                        column = key.column,
                        rows,
                        bytes = index.bytes(),
                        seconds = began.elapsed().as_secs_f64(),
                        "resident index built"
                    );
                    index.used_at_ms.store(residents.clock.now_ms(), Ordering::Relaxed);
                    residents.settle(key, &progress, Entry::Ready(index));
                }
                Err(error) => {
                    tracing::warn!(error = %error, column = key.column, "resident index: not built");
                    let why = error.message().to_owned();
                    residents.settle(key, &progress, Entry::Failed { why, is_requested });
                }
            }
        });
    }

    /// Puts a finished one in the place of the one that was being built, unless that was dropped meanwhile, or
    /// dropped and begun anew.
    fn settle(&self, key: ResidentKey, began: &Arc<Progress>, mut entry: Entry) {
        let mut entries = self.entries();
        match entries.get(&key) {
            Some(Entry::Building { progress, is_requested }) if Arc::ptr_eq(progress, began) => {
                match &mut entry {
                    Entry::Ready(index) => {
                        index.is_requested.fetch_or(*is_requested, Ordering::Relaxed)
                    }
                    Entry::Failed { is_requested: own, .. } => {
                        std::mem::replace(own, *own || *is_requested)
                    }
                    Entry::Building { .. } => false,
                };
                entries.insert(key, entry);
                drop(entries);
                self.evict();
            }
            Some(_) => {
                if let Entry::Ready(index) = entry {
                    index.give_up();
                }
            }
            None => {
                drop(entries);
                self.forget(&key, entry);
            }
        }
    }

    fn forget(&self, key: &ResidentKey, entry: Entry) {
        if let Entry::Ready(index) = entry {
            index.give_up();
        }
        super::files::delete(&self.means(key).folder);
    }

    /// Drops an index and its files.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn remove(&self, snapshot: &Snapshot, column: &str) -> Result<()> {
        let key = ResidentKey::of(snapshot, column);
        let removed = self.entries().remove(&key);
        match removed {
            Some(entry) => {
                self.forget(&key, entry);
                Ok(())
            }
            None => Err(Error::not_found(format!("column `{column}` has no resident index"))),
        }
    }

    /// Drops all of a table that is gone.
    pub fn remove_table(&self, table_uid: &str) {
        let mut gone = Vec::new();
        self.entries().retain(|key, entry| {
            let is_gone = key.table_uid == table_uid;
            if is_gone && let Entry::Ready(index) = entry {
                index.give_up();
            }
            gone.extend(is_gone.then(|| key.clone()));
            !is_gone
        });
        super::files::delete(&self.options.folder.join(table_uid));
    }

    /// Takes those out of memory that were not used for the longest time, those that nobody asked for first,
    /// until the rest fits. Their files stay.
    fn evict(&self) {
        let most = self.options.memory_bytes_max as usize;
        let mut entries = self.entries();
        let mut ready: Vec<(bool, i64, usize, ResidentKey)> = Vec::new();
        for (key, entry) in entries.iter() {
            if let Entry::Ready(index) = entry {
                let is_requested = index.is_requested.load(Ordering::Relaxed);
                let used = index.used_at_ms.load(Ordering::Relaxed);
                ready.push((is_requested, used, index.bytes(), key.clone()));
            }
        }
        ready.sort();
        let mut bytes: usize = ready.iter().map(|(_, _, bytes, _)| bytes).sum();
        metrics::gauge!("lakebed_resident_index_bytes").set(bytes as f64);
        metrics::gauge!("lakebed_resident_indexes").set(ready.len() as f64);
        for (_, _, own, key) in ready {
            if bytes <= most {
                break;
            }
            bytes -= own;
            if let Some(Entry::Ready(index)) = entries.remove(&key) {
                index.give_up();
                tracing::info!(column = key.column, bytes = own, "resident index evicted");
                metrics::counter!("lakebed_resident_index_evictions_total").increment(1);
            }
        }
    }

    /// The indexes of a table.
    pub fn list(&self, table_uid: &str) -> Vec<ResidentStatus> {
        let entries = self.entries();
        let own = entries.iter().filter(|(key, _)| key.table_uid == table_uid);
        let mut found: Vec<ResidentStatus> = own.map(|(key, entry)| status(key, entry)).collect();
        drop(entries);
        found.sort_by(|one, other| (&one.branch, &one.column).cmp(&(&other.branch, &other.column)));
        found
    }

    /// Answers a search, if the index of its column shows its version and fits what it asks.
    ///
    /// # Errors
    /// As a scan with the filter.
    pub async fn find(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        spec: &SearchSpec,
    ) -> Result<Option<ResidentFound>> {
        if self.options.memory_bytes_max == 0 {
            return Ok(None);
        }
        let Some((query, vector, k)) = asked(spec) else { return Ok(None) };
        let key = ResidentKey::of(snapshot, &query.column);
        let ready = match self.entries().get(&key) {
            Some(Entry::Ready(index)) => Some(Arc::clone(index)),
            Some(_) => return Ok(None),
            None => None,
        };
        let Some(index) = ready else {
            self.count(snapshot, key, query).await;
            return Ok(None);
        };
        if query.distance.is_some_and(|distance| distance != index.distance()) {
            return Ok(None);
        }
        match self.answered(snapshot, spec, &index, vector, k).await {
            Ok(Answered::Found(found)) => Ok(Some(found)),
            Ok(Answered::Not) => Ok(None),
            Ok(Answered::Far) => {
                self.follow(snapshot.clone(), key, index);
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Internal => {
                // Nothing of it is the truth: the table's own index answers, and from now on.
                tracing::warn!(error = %error, column = key.column, "resident index: given up");
                if self.entries().remove(&key).is_some() {
                    self.forget(&key, Entry::Ready(index));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn answered(
        &self,
        snapshot: &Snapshot,
        spec: &SearchSpec,
        index: &Arc<ResidentIndex>,
        vector: &[f32],
        k: u64,
    ) -> Result<Answered> {
        let Ranking::Vector(asked) = &spec.ranking else { return Ok(Answered::Not) };
        let state = match index.at(snapshot).await? {
            At::There(state) => state,
            At::Past => return Ok(Answered::Not),
            At::Far => return Ok(Answered::Far),
        };
        // What a search means that names no distance is for the table to say, not for what is in memory.
        if asked.distance.is_none() && index.usual_distance(snapshot).await? != index.distance() {
            return Ok(Answered::Not);
        }
        // Lance says what is wrong with a vector that does not fit.
        let Some(query) = index.query(vector) else { return Ok(Answered::Not) };
        let ef = asked.ef.map(|ef| ef.clamp(1, EF_MAX) as usize);
        let graph_rows = state.graph_rows() as u64;
        let passes = Passes { filter: spec.filter.clone(), rows: spec.rows.clone() };
        let answer = index.search(snapshot, state, query, (k as usize, ef), passes).await?;
        if index.searches.fetch_add(1, Ordering::Relaxed) % EVICT_EVERY == EVICT_EVERY - 1 {
            self.evict();
        }
        index.used_at_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        let skipped = usize::try_from(spec.offset).unwrap_or(usize::MAX);
        let hits = answer.hits.into_iter().skip(skipped).collect();
        Ok(Answered::Found(ResidentFound {
            hits,
            way: answer.way,
            name: format!("resident({})", asked.column),
            graph_rows,
            compared_rows: answer.compared,
        }))
    }

    /// Follows a version that is far away in the background, or builds the index anew.
    fn follow(self: &Arc<Self>, snapshot: Snapshot, key: ResidentKey, index: Arc<ResidentIndex>) {
        if index.is_following.swap(true, Ordering::AcqRel) {
            return;
        }
        let residents = Arc::clone(self);
        tokio::spawn(async move {
            let followed = index.follow(&snapshot).await;
            index.is_following.store(false, Ordering::Release);
            match followed {
                Ok(Follow::Done) => residents.evict(),
                Ok(Follow::Anew) => {
                    let is_requested = index.is_requested.load(Ordering::Relaxed);
                    index.give_up();
                    residents.begin(snapshot, key, index.distance(), is_requested);
                }
                Err(error) => {
                    tracing::warn!(error = %error, column = key.column, "resident index: not followed");
                }
            }
        });
    }

    /// Counts a search of a column without an index, which gets one when there are many: from its files, if
    /// some are left from before a restart, at once.
    async fn count(self: &Arc<Self>, snapshot: &Snapshot, key: ResidentKey, query: &VectorQuery) {
        let is_first =
            self.looked.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        if is_first && self.means(&key).folder.is_dir() {
            self.load(snapshot.clone(), key);
            return;
        }
        if self.options.hot_searches == 0 {
            return;
        }
        let now = self.clock.now_ms();
        let is_hot = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.len() >= COUNTED_MAX {
                counts.retain(|_, (since, _)| now - *since < HOT_WINDOW_MS);
            }
            let count = counts.entry(key.clone()).or_insert((now, 0));
            if now - count.0 >= HOT_WINDOW_MS {
                *count = (now, 0);
            }
            count.1 += 1;
            let is_hot = count.1 >= self.options.hot_searches;
            if is_hot {
                counts.remove(&key);
            }
            is_hot
        };
        if !is_hot || !self.has_room(snapshot, &query.column).await {
            return;
        }
        let distance = match query.distance {
            Some(distance) => Ok(distance),
            None => read::distance_of(snapshot, &query.column).await,
        };
        if let Ok(distance @ (DistanceType::L2 | DistanceType::Cosine)) = distance {
            self.begin(snapshot.clone(), key, distance, false);
        }
    }

    /// Whether one more fits beside those that are there.
    async fn has_room(&self, snapshot: &Snapshot, column: &str) -> bool {
        let Ok(bytes) = self.check_size(snapshot, column).await else { return false };
        let taken: usize = self
            .entries()
            .values()
            .map(|entry| match entry {
                Entry::Ready(index) => index.bytes(),
                _ => 0,
            })
            .sum();
        taken as u64 + bytes <= self.options.memory_bytes_max
    }

    fn load(self: &Arc<Self>, snapshot: Snapshot, key: ResidentKey) {
        let progress = Arc::new(Progress::default());
        let entry = Entry::Building { progress: Arc::clone(&progress), is_requested: false };
        self.entries().insert(key.clone(), entry);
        let residents = Arc::clone(self);
        tokio::spawn(async move {
            let dimension = read::dimension(&snapshot, &key.column).unwrap_or(0);
            let means = residents.means(&key);
            match ResidentIndex::load(key.clone(), dimension, means).await {
                Some(index) => {
                    tracing::info!(
                        column = key.column,
                        rows = index.newest().rows(),
                        "resident index read"
                    );
                    index.used_at_ms.store(residents.clock.now_ms(), Ordering::Relaxed);
                    residents.settle(key.clone(), &progress, Entry::Ready(Arc::clone(&index)));
                    residents.follow(snapshot, key, index);
                }
                None => {
                    // What is there is of no use.
                    residents.entries().remove(&key);
                    super::files::delete(&residents.means(&key).folder);
                }
            }
        });
    }
}

fn status(key: &ResidentKey, entry: &Entry) -> ResidentStatus {
    let mut status = ResidentStatus {
        column: key.column.clone(),
        branch: key.branch.clone(),
        state: ResidentState::Building,
        requested: false,
        distance: None,
        version: None,
        rows: 0,
        graph_rows: 0,
        masked_rows: 0,
        segments: 0,
        bytes: 0,
        searches: 0,
        error: None,
    };
    match entry {
        Entry::Building { progress, is_requested } => {
            status.requested = *is_requested;
            status.rows = progress.read.load(Ordering::Relaxed);
        }
        Entry::Failed { why, is_requested } => {
            status.state = ResidentState::Failed;
            status.requested = *is_requested;
            status.error = Some(why.clone());
        }
        Entry::Ready(index) => {
            let state = index.newest();
            status.state = ResidentState::Ready;
            status.requested = index.is_requested.load(Ordering::Relaxed);
            status.distance = Some(index.distance());
            status.version = Some(state.moment.version);
            status.rows = state.rows() as u64;
            status.graph_rows = state.graph_rows() as u64;
            status.masked_rows = state.masked_rows() as u64;
            status.segments = state.parts.len() as u64;
            status.bytes = index.bytes() as u64;
            status.searches = index.searches.load(Ordering::Relaxed);
        }
    }
    status
}

/// What a search asks of a resident index; nothing where it asks for something else.
fn asked(spec: &SearchSpec) -> Option<(&VectorQuery, &[f32], u64)> {
    let Ranking::Vector(query) = &spec.ranking else { return None };
    let QueryVectors::One(vector) = &query.vectors else { return None };
    let k = spec.limit?.checked_add(spec.offset)?;
    let is_plain = query.use_index
        && query.lower_bound.is_none()
        && query.upper_bound.is_none()
        && spec.order_by.is_empty()
        && is_by_name(&spec.projection)
        && (spec.filter.is_none() || spec.prefilter);
    (is_plain && (1..=K_MAX).contains(&k)).then_some((query, vector.as_slice(), k))
}

/// Whether rows by their ids can have these columns: those stored, how far a row is, and its id.
fn is_by_name(projection: &Projection) -> bool {
    match projection {
        Projection::All => true,
        Projection::Names(names) => names
            .iter()
            .all(|name| !name.starts_with('_') || matches!(name.as_str(), "_distance" | "_rowid")),
        Projection::Expressions(_) => false,
    }
}
