//! A pass: the rows of one version that a job has to compute, numbered through.
//!
//! A job is done in one pass unless the table changes under it. Rows whose fragment was rewritten
//! meanwhile are looked for by their ids in the newest version and make another pass, whose numbers go on.
//!
//! ```text
//!   fragment ─► places of its rows ─► their numbers, of which tasks are ranges
//!       └─ a group: when all its rows are recorded, the fragment can be filled
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::{Error, Result};
use lakebed_storage::{RowPlaces, Snapshot};
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::ids::RowRange;
use crate::ledger::{PlannedFragment, Record};
use crate::parts::TaskRows;

/// Fragments whose row ids are kept at hand.
const CACHED_FRAGMENTS: usize = 4;

/// One pass.
pub(crate) struct Pass {
    pub(crate) number: u32,
    pub(crate) snapshot: Snapshot,
    pub(crate) fragments: Vec<PassFragment>,
    row_ids: Mutex<VecDeque<(u32, Arc<TaskRows>)>>,
    reading: tokio::sync::Mutex<()>,
}

/// The rows of one fragment in a pass.
pub(crate) struct PassFragment {
    pub(crate) planned: PlannedFragment,
    pub(crate) group: u32,
    /// The number of its first row.
    pub(crate) first: u64,
    /// The number after its last row.
    pub(crate) end: u64,
}

impl Pass {
    /// Plans a pass over the rows at `places`.
    ///
    /// # Errors
    /// `NotFound` when a source column is gone, `InvalidArgument` for more rows than a job can have.
    pub(crate) fn plan(
        number: u32,
        snapshot: &Snapshot,
        sources: &[String],
        places: RowPlaces,
        before: Option<&Pass>,
    ) -> Result<Record> {
        let mut files = snapshot.source_files(sources)?;
        let fragments = places.into_iter().map(|(fragment, mut places)| {
            places.optimize();
            let source_files = files.remove(&fragment).unwrap_or_default();
            PlannedFragment { fragment, source_files, places }
        });
        let fragments: Vec<PlannedFragment> = fragments.collect();
        let first_row = before.map_or(0, Pass::next_row);
        let rows: u64 = fragments.iter().map(|fragment| fragment.places.len()).sum();
        if first_row.saturating_add(rows) > RowRange::NUMBERS_MAX {
            return Err(Error::invalid(format!(
                "a job has at most {} rows",
                RowRange::NUMBERS_MAX
            )));
        }
        Ok(Record::Planned {
            pass: number,
            version: snapshot.version(),
            first_row,
            first_group: before.map_or(0, Pass::next_group),
            fragments,
        })
    }

    /// The pass that a record says, over the version that it names.
    pub(crate) fn open(record: &Record, snapshot: Snapshot) -> Result<Pass> {
        let Record::Planned { pass, first_row, first_group, fragments, .. } = record else {
            return Err(Error::internal("a pass is opened from another record"));
        };
        let (mut first, mut group) = (*first_row, *first_group);
        let mut opened = Vec::with_capacity(fragments.len());
        for planned in fragments {
            let end = first + planned.places.len();
            opened.push(PassFragment { planned: planned.clone(), group, first, end });
            first = end;
            group += 1;
        }
        let (row_ids, reading) = Default::default();
        Ok(Pass { number: *pass, snapshot, fragments: opened, row_ids, reading })
    }

    fn next_row(&self) -> u64 {
        self.fragments.last().map_or(0, |last| last.end)
    }

    fn next_group(&self) -> u32 {
        self.fragments.last().map_or(0, |last| last.group + 1)
    }

    /// The fragment of a group.
    pub(crate) fn group(&self, group: u32) -> Option<&PassFragment> {
        let at = self.fragments.partition_point(|fragment| fragment.group < group);
        self.fragments.get(at).filter(|fragment| fragment.group == group)
    }

    /// The fragment that has a row.
    pub(crate) fn fragment_at(&self, row: u64) -> Option<&PassFragment> {
        let at = self.fragments.partition_point(|fragment| fragment.end <= row);
        self.fragments.get(at).filter(|fragment| fragment.first <= row)
    }

    /// The fragment that has all rows of a range.
    ///
    /// # Errors
    /// `NotFound` for rows of another pass.
    pub(crate) fn fragment_of(&self, range: RowRange) -> Result<&PassFragment> {
        self.fragment_at(range.first)
            .filter(|fragment| range.end() <= fragment.end)
            .ok_or_else(|| Error::not_found(format!("{range} are not in the pass under way")))
    }

    /// The rows of a range, by place.
    ///
    /// # Errors
    /// `NotFound` for rows of another pass; those of reading row ids.
    pub(crate) async fn rows_of(&self, range: RowRange) -> Result<TaskRows> {
        let fragment = self.fragment_of(range)?;
        let all = self.row_ids(fragment).await?;
        // By place, as the rows are numbered.
        let start = usize::try_from(range.first - fragment.first).unwrap_or(usize::MAX);
        let rows = all.get(start..start.saturating_add(range.rows as usize));
        let rows = rows.ok_or_else(|| Error::internal("a range has more rows than row ids"))?;
        Ok(rows.to_vec())
    }

    /// The places of some rows of a fragment, from a number to the one after the last.
    ///
    /// # Errors
    /// `Internal` for rows that it does not have.
    pub(crate) fn places_of(
        &self,
        fragment: &PassFragment,
        first: u64,
        end: u64,
    ) -> Result<RoaringBitmap> {
        let places = &fragment.planned.places;
        let at = first.checked_sub(fragment.first).and_then(|at| u32::try_from(at).ok());
        let start = at.and_then(|at| places.select(at));
        let start = start.ok_or_else(|| Error::internal("a range without rows"))?;
        let rows = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
        Ok(places.range(start..).take(rows).collect())
    }

    /// The row ids of all rows of a fragment in the pass.
    pub(crate) async fn row_ids(&self, fragment: &PassFragment) -> Result<Arc<TaskRows>> {
        let id = fragment.planned.fragment;
        let cached = || self.row_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = cached().iter().find(|(of, _)| *of == id) {
            return Ok(Arc::clone(found));
        }
        // One reads for all: workers that begin at the same time ask for the same.
        let _reading = self.reading.lock().await;
        if let Some((_, found)) = cached().iter().find(|(of, _)| *of == id) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(self.snapshot.row_ids_at(id, &fragment.planned.places).await?);
        if found.len() as u64 != fragment.planned.places.len() {
            return Err(Error::internal(format!(
                "fragment {id} has {} rows and {} row ids",
                fragment.planned.places.len(),
                found.len()
            )));
        }
        let mut cached = cached();
        cached.truncate(CACHED_FRAGMENTS - 1);
        cached.push_front((id, Arc::clone(&found)));
        Ok(found)
    }
}

/// Where rows lie in a version, by their ids, as far as `filter` is true for them; those that were
/// deleted are absent.
///
/// # Errors
/// Those of reading row ids.
pub(crate) async fn places_of_ids(
    snapshot: &Snapshot,
    wanted: &RoaringTreemap,
    filter: Option<&str>,
) -> Result<RowPlaces> {
    let mut places = RowPlaces::new();
    for (fragment, all) in snapshot.row_places(filter, None).await? {
        let found = snapshot.row_ids_at(fragment, &all).await?;
        let here: RoaringBitmap =
            found.iter().filter(|(_, id)| wanted.contains(*id)).map(|(place, _)| *place).collect();
        if !here.is_empty() {
            places.insert(fragment, here);
        }
    }
    Ok(places)
}
