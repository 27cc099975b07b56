//! The resident index of one column: the states of its newest versions, and how it follows later ones.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use lakebed_core::{DistanceType, Result};
use lakebed_storage::{RowMask, ScanSpec, Snapshot};
use roaring::RoaringTreemap;

use super::advance::{Difference, advanced, part_of};
use super::build::{self, Builders, Progress, joined, still_visible};
use super::graph::GraphParams;
use super::quantiser::{Quantiser, Query};
use super::read::{self, Rows};
use super::saved;
use super::segment::Scratch;
use super::state::{Answer, Moment, Part, Passing, State};
use super::upkeep::{PartFacts, Upkeep, upkeep};

/// States that are kept, so that a search that began before a commit finds its version.
const STATES_MAX: usize = 4;
/// Rows that a search reads to follow its version, at most; more are read in the background.
const FOLLOWED_ROWS_MAX: u64 = 20_000;
/// Rows of which it reads only the ids, where others of their fragments were deleted.
const FOLLOWED_IDS_MAX: u64 = 1_000_000;
/// Bytes of the vectors of new rows that are held in memory, at most; with more the index is built anew.
const FRESH_BYTES_MAX: usize = 64 << 20;
/// Filters whose rows are kept.
const FILTERS_MAX: usize = 64;

/// A column of a branch of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResidentKey {
    /// The table, whatever its name.
    pub table_uid: String,
    /// The branch; main has none.
    pub branch: Option<String>,
    /// The column.
    pub column: String,
}

impl ResidentKey {
    /// The key of a column of a snapshot.
    pub fn of(snapshot: &Snapshot, column: &str) -> ResidentKey {
        ResidentKey {
            table_uid: snapshot.table().uid().to_owned(),
            branch: snapshot.branch().map(str::to_owned),
            column: column.to_owned(),
        }
    }
}

/// What it takes to have an index.
#[derive(Clone)]
pub(super) struct Means {
    pub folder: PathBuf,
    pub params: GraphParams,
    pub builders: Arc<Builders>,
}

/// What follows a version that is too far away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It is there.
    Done,
    /// The index has to be built anew.
    Anew,
}

/// Which rows a search may find.
#[derive(Debug, Clone, Default)]
pub(super) struct Passes {
    /// Those for which this is true.
    pub filter: Option<String>,
    /// Those that this selects.
    pub rows: Option<Arc<RowMask>>,
}

impl Passes {
    fn is_all(&self) -> bool {
        self.filter.is_none() && self.rows.is_none()
    }

    fn is(&self, other: &Passes) -> bool {
        let rows = match (&self.rows, &other.rows) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
            (None, None) => true,
            _ => false,
        };
        rows && self.filter == other.filter
    }
}

/// The rows of a filter at a version.
struct Filtered {
    moment: Moment,
    passes: Passes,
    rows: RoaringTreemap,
    /// The state that they were looked up in, and its rows.
    passing: Mutex<Option<(Arc<State>, Arc<Passing>)>>,
}

/// A resident index.
pub struct ResidentIndex {
    key: ResidentKey,
    quantiser: Arc<Quantiser>,
    means: Means,
    /// The newest last.
    states: ArcSwap<Vec<Arc<State>>>,
    /// Held by whoever makes a state.
    writing: tokio::sync::Mutex<()>,
    is_tended: AtomicBool,
    /// Whether it follows a version that is far away.
    pub(super) is_following: AtomicBool,
    is_dropped: AtomicBool,
    /// Whether somebody asked for it.
    pub(super) is_requested: AtomicBool,
    filters: Mutex<VecDeque<Arc<Filtered>>>,
    /// How a version measures where nothing is asked for.
    usual_distance: Mutex<Option<(Moment, DistanceType)>>,
    /// Searches that it answered.
    pub(super) searches: AtomicU64,
    /// When it last answered, in milliseconds since 1970.
    pub(super) used_at_ms: AtomicI64,
}

impl ResidentIndex {
    pub(super) async fn build(
        snapshot: &Snapshot,
        column: &str,
        distance: DistanceType,
        means: Means,
        progress: &Progress,
        is_requested: bool,
    ) -> Result<Arc<ResidentIndex>> {
        let (quantiser, state) = build::build(
            snapshot,
            column,
            distance,
            &means.folder,
            means.params,
            &means.builders,
            progress,
        )
        .await?;
        let key = ResidentKey::of(snapshot, column);
        let index = ResidentIndex::of(key, quantiser, means, state, is_requested);
        index.save().await?;
        Ok(index)
    }

    /// What was saved of a column, if it is whole.
    pub(super) async fn load(
        key: ResidentKey,
        dimension: usize,
        means: Means,
    ) -> Option<Arc<ResidentIndex>> {
        let (own, folder) = (key.clone(), means.folder.clone());
        let read = move || saved::load(&folder, &own.column, own.branch.as_deref(), dimension);
        let loaded = tokio::task::spawn_blocking(read).await.ok()??;
        let quantiser = Arc::new(loaded.quantiser);
        Some(ResidentIndex::of(key, quantiser, means, loaded.state, loaded.is_requested))
    }

    fn of(
        key: ResidentKey,
        quantiser: Arc<Quantiser>,
        means: Means,
        state: State,
        is_requested: bool,
    ) -> Arc<ResidentIndex> {
        Arc::new(ResidentIndex {
            key,
            quantiser,
            means,
            states: ArcSwap::from_pointee(vec![Arc::new(state)]),
            writing: tokio::sync::Mutex::default(),
            is_tended: AtomicBool::new(false),
            is_following: AtomicBool::new(false),
            is_dropped: AtomicBool::new(false),
            is_requested: AtomicBool::new(is_requested),
            filters: Mutex::default(),
            usual_distance: Mutex::default(),
            searches: AtomicU64::new(0),
            used_at_ms: AtomicI64::new(0),
        })
    }

    /// How distances are measured.
    pub fn distance(&self) -> DistanceType {
        self.quantiser.distance()
    }

    /// How a version measures where nothing is asked for, whether this index is there or not.
    ///
    /// # Errors
    /// Those of [`Snapshot::indexes`].
    pub(super) async fn usual_distance(&self, snapshot: &Snapshot) -> Result<DistanceType> {
        let known = || self.usual_distance.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = Moment::of(snapshot);
        if let Some((of, distance)) = *known()
            && of == moment
        {
            return Ok(distance);
        }
        let distance = read::distance_of(snapshot, &self.key.column).await?;
        *known() = Some((moment, distance));
        Ok(distance)
    }

    /// What it shows of the newest version that it followed.
    pub fn newest(&self) -> Arc<State> {
        self.states.load().last().cloned().unwrap_or_default()
    }

    /// Bytes in memory: what its newest state holds, and the rows of filters.
    pub fn bytes(&self) -> usize {
        let of_filters: usize =
            self.filters().iter().map(|filter| filter.rows.serialized_size()).sum();
        self.newest().bytes() + of_filters
    }

    /// A vector to search by; nothing for one that has no code, or is of another width.
    pub(super) fn query(&self, vector: &[f32]) -> Option<Query> {
        self.quantiser.query(vector).ok()
    }

    fn filters(&self) -> MutexGuard<'_, VecDeque<Arc<Filtered>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_of(&self, moment: Moment) -> Option<Arc<State>> {
        self.states.load().iter().find(|state| state.moment == moment).cloned()
    }

    /// The state of a version, which is followed if that is little work. Nothing for an older version, and
    /// for one that is far away: then `follow` has to be called.
    ///
    /// # Errors
    /// As a scan of the version.
    pub(super) async fn at(self: &Arc<Self>, snapshot: &Snapshot) -> Result<At> {
        let moment = Moment::of(snapshot);
        if let Some(state) = self.state_of(moment) {
            return Ok(At::There(state));
        }
        if self.newest().moment > moment {
            return Ok(At::Past);
        }
        let writing = self.writing.lock().await;
        if let Some(state) = self.state_of(moment) {
            return Ok(At::There(state));
        }
        let newest = self.newest();
        if newest.moment > moment {
            return Ok(At::Past);
        }
        if !self.fits(snapshot) {
            return Ok(At::Far);
        }
        let marks = snapshot.fragment_marks(&self.key.column)?;
        let difference = Difference::of(&newest, marks);
        if difference.new_rows() > FOLLOWED_ROWS_MAX || difference.fewer_rows() > FOLLOWED_IDS_MAX {
            return Ok(At::Far);
        }
        match self.step(&newest, snapshot, difference).await? {
            None => Ok(At::Far),
            Some(state) => {
                drop(writing);
                self.tend();
                Ok(At::There(state))
            }
        }
    }

    /// Follows a version however far it is.
    ///
    /// # Errors
    /// As a scan of the version.
    pub(super) async fn follow(self: &Arc<Self>, snapshot: &Snapshot) -> Result<Follow> {
        let writing = self.writing.lock().await;
        let newest = self.newest();
        if newest.moment >= Moment::of(snapshot) {
            return Ok(Follow::Done);
        }
        if !self.fits(snapshot) {
            return Ok(Follow::Anew);
        }
        let marks = snapshot.fragment_marks(&self.key.column)?;
        let difference = Difference::of(&newest, marks);
        let followed = self.step(&newest, snapshot, difference).await?;
        drop(writing);
        self.tend();
        Ok(if followed.is_some() { Follow::Done } else { Follow::Anew })
    }

    /// Whether the column still has vectors of this width; another one may have come under its name.
    fn fits(&self, snapshot: &Snapshot) -> bool {
        read::dimension(snapshot, &self.key.column).is_ok_and(|it| it == self.quantiser.dimension())
    }

    async fn step(
        &self,
        newest: &State,
        snapshot: &Snapshot,
        difference: Difference,
    ) -> Result<Option<Arc<State>>> {
        let next = if difference.is_none() {
            Some(State { moment: Moment::of(snapshot), ..newest.clone() })
        } else {
            let (quantiser, column) = (&self.quantiser, &self.key.column);
            let rows_max = FRESH_BYTES_MAX / (quantiser.dimension() * size_of::<f32>()).max(1);
            advanced(newest, quantiser, snapshot, column, difference, rows_max).await?
        };
        Ok(next.map(|state| self.show(state)))
    }

    fn show(&self, state: State) -> Arc<State> {
        let state = Arc::new(state);
        let mut states = Vec::clone(&self.states.load());
        states.push(Arc::clone(&state));
        states.drain(..states.len().saturating_sub(STATES_MAX));
        let is_kept = |moment| states.iter().any(|state| state.moment == moment);
        self.filters().retain(|filter| is_kept(filter.moment));
        self.states.store(Arc::new(states));
        state
    }

    /// The rows that pass, kept for the next search.
    ///
    /// # Errors
    /// As a scan with the filter.
    async fn filtered(&self, snapshot: &Snapshot, passes: Passes) -> Result<Arc<Filtered>> {
        let moment = Moment::of(snapshot);
        let known = {
            let filters = self.filters();
            let mut own = filters.iter();
            own.find(|it| it.moment == moment && it.passes.is(&passes)).cloned()
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let rows = match (&passes.filter, &passes.rows) {
            (None, Some(rows)) => rows.ids().clone(),
            _ => {
                let (filter, rows) = (passes.filter.clone(), passes.rows.clone());
                let spec = ScanSpec { filter, rows, ..ScanSpec::default() };
                read::row_ids(snapshot, spec).await?.into_iter().collect()
            }
        };
        let is_kept = passes.filter.as_deref().is_none_or(is_steady);
        let made = Arc::new(Filtered { moment, passes, rows, passing: Mutex::default() });
        if !is_kept {
            return Ok(made);
        }
        let mut filters = self.filters();
        filters.push_back(Arc::clone(&made));
        if filters.len() > FILTERS_MAX {
            filters.pop_front();
        }
        Ok(made)
    }

    /// The `k` nearest rows of a state, of those that pass. The comparing is done on a thread
    /// for blocking work.
    ///
    /// # Errors
    /// As a scan with the filter; `Internal` when the vectors cannot be read.
    pub(super) async fn search(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        state: Arc<State>,
        query: Query,
        (k, ef): (usize, Option<usize>),
        passes: Passes,
    ) -> Result<Answer> {
        let filtered = match passes.is_all() {
            true => None,
            false => Some(self.filtered(snapshot, passes).await?),
        };
        let quantiser = Arc::clone(&self.quantiser);
        let work = move || {
            let passing = filtered.map(|filtered| filtered.passing(&state));
            state.search(&quantiser, &query, k, ef, passing.as_deref())
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| {
            lakebed_core::Error::internal("a search broke off").with_source(error)
        })?
    }

    /// Begins to put segments in order in the background, unless that is being done.
    fn tend(self: &Arc<Self>) {
        if self.plan(&self.newest()) == Upkeep::Nothing
            || self.is_tended.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let index = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = index.put_in_order().await {
                // The index goes on with the segments that it has.
                tracing::warn!(error = %error, column = index.key.column, "resident index: upkeep failed");
            }
            index.is_tended.store(false, Ordering::Release);
        });
    }

    fn plan(&self, state: &State) -> Upkeep {
        let facts = state.parts.iter().map(|part| PartFacts {
            rows: part.segment.rows(),
            visible: part.visible.count(),
            has_graph: part.segment.graph.is_some(),
        });
        upkeep(&facts.collect::<Vec<_>>(), self.quantiser.stride())
    }

    /// Does what the segments need until they need nothing.
    ///
    /// # Errors
    /// `Internal` for the file system.
    pub(super) async fn put_in_order(self: &Arc<Self>) -> Result<()> {
        while !self.is_dropped.load(Ordering::Acquire) {
            match self.plan(&self.newest()) {
                Upkeep::Nothing => return Ok(()),
                Upkeep::Gather(parts) => {
                    let _writing = self.writing.lock().await;
                    let newest = self.newest();
                    let old = chosen(&newest, &parts);
                    let rows = self.rows_of(&old)?;
                    let made = part_of(&self.quantiser, rows, newest.sorted())?;
                    self.replace(&newest, &old, made);
                }
                Upkeep::Join(parts) => self.join(&parts).await?,
            }
        }
        Ok(())
    }

    async fn join(self: &Arc<Self>, parts: &[usize]) -> Result<()> {
        let old = chosen(&self.newest(), parts);
        let Means { folder, params, builders } = &self.means;
        let (segment, places) =
            joined(old.clone(), &self.quantiser, folder, *params, builders).await?;
        let writing = self.writing.lock().await;
        let newest = self.newest();
        let now: Vec<Option<Part>> = old.iter().map(|part| same(&newest, part)).collect();
        let visible = Arc::new(still_visible(&places, &now));
        let made = Part { segment: Arc::new(segment), visible };
        self.replace(&newest, &old, Some(made));
        drop(writing);
        self.save().await
    }

    /// Shows one part instead of others.
    fn replace(&self, newest: &State, old: &[Part], made: Option<Part>) {
        let is_old = |part: &Part| old.iter().any(|old| Arc::ptr_eq(&old.segment, &part.segment));
        let kept = newest.parts.iter().filter(|part| !is_old(part)).cloned();
        let made = made.filter(|part| part.visible.count() > 0);
        let parts = kept.chain(made).collect();
        let state = State { parts, ..newest.clone() };
        // States before hold the old segments: versions that are not the newest are left to the table's
        // own indexes.
        self.states.store(Arc::new(vec![Arc::new(state)]));
        // They hold the states in which they were looked up.
        self.filters().clear();
    }

    fn rows_of(&self, parts: &[Part]) -> Result<Rows> {
        let mut rows = Rows::default();
        let mut scratch = Scratch::default();
        for (part, row) in build::places(parts) {
            let Some(part) = parts.get(part as usize) else { continue };
            let segment = &part.segment;
            rows.ids.push(segment.ids.id_of(row));
            rows.numbers.extend(segment.vector(row, self.quantiser.dimension(), &mut scratch)?);
        }
        Ok(rows)
    }

    /// Writes the newest state to its folder.
    ///
    /// # Errors
    /// `Internal` for the file system.
    pub(super) async fn save(self: &Arc<Self>) -> Result<()> {
        let _writing = self.writing.lock().await;
        if self.is_dropped.load(Ordering::Acquire) {
            return Ok(());
        }
        let index = Arc::clone(self);
        let state = self.newest();
        let work = move || {
            let ResidentKey { branch, column, .. } = &index.key;
            let is_requested = index.is_requested.load(Ordering::Relaxed);
            let folder = &index.means.folder;
            let of = (column.as_str(), branch.as_deref());
            saved::save(folder, of, &index.quantiser, &state, is_requested)
        };
        let saved = tokio::task::spawn_blocking(work).await;
        saved
            .map_err(|error| lakebed_core::Error::internal("a save broke off").with_source(error))?
    }

    /// Stops its upkeep. What searches it goes on to its end.
    pub(super) fn give_up(&self) {
        self.is_dropped.store(true, Ordering::Release);
    }
}

/// Whether a version is there.
pub(super) enum At {
    /// It is.
    There(Arc<State>),
    /// The index is at a later one.
    Past,
    /// The index is at one that is much earlier.
    Far,
}

impl Filtered {
    /// The rows in the parts of a state, looked up once.
    fn passing(&self, state: &Arc<State>) -> Arc<Passing> {
        let mut known = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, passing)) = known.as_ref()
            && Arc::ptr_eq(of, state)
        {
            return Arc::clone(passing);
        }
        let passing = Arc::new(state.passing(&self.rows));
        *known = Some((Arc::clone(state), Arc::clone(&passing)));
        passing
    }
}

/// Whether a filter lets the same rows of a version pass whenever it is asked: none that looks at the clock or
/// throws dice, by the names of the functions that do.
fn is_steady(filter: &str) -> bool {
    let filter = filter.to_lowercase();
    let names = ["now", "current_", "today", "random", "rand", "uuid", "localtime"];
    !names.iter().any(|name| filter.contains(name))
}

fn chosen(state: &State, parts: &[usize]) -> Vec<Part> {
    parts.iter().filter_map(|part| state.parts.get(*part)).cloned().collect()
}

fn same(state: &State, part: &Part) -> Option<Part> {
    state.parts.iter().find(|other| Arc::ptr_eq(&other.segment, &part.segment)).cloned()
}
