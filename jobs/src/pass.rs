//! A pass: the rows of one version that a job has to compute, cut into tasks.
//!
//! A job is done in one pass unless the table changes under it. Rows whose fragment was rewritten
//! meanwhile are looked for by their ids in the newest version and make another pass.
//!
//! ```text
//!   fragment ─► places of its rows ─► tasks of a few hundred rows, numbered through
//!       └─ a group: when all its tasks are recorded, the fragment can be filled
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::{Error, Result};
use lakebed_storage::{RowPlaces, Snapshot};
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::ledger::{PlannedFragment, Record};
use crate::parts::TaskRows;

/// Fragments whose row ids are kept at hand.
const CACHED_FRAGMENTS: usize = 4;

/// One pass.
pub(crate) struct Pass {
    pub(crate) number: u32,
    pub(crate) snapshot: Snapshot,
    pub(crate) fragments: Vec<PassFragment>,
    pub(crate) task_rows: u32,
    row_ids: Mutex<VecDeque<(u32, Arc<TaskRows>)>>,
}

/// The rows of one fragment in a pass.
pub(crate) struct PassFragment {
    pub(crate) planned: PlannedFragment,
    pub(crate) group: u32,
    pub(crate) first_task: u64,
    pub(crate) tasks: u64,
}

impl Pass {
    /// Plans a pass over the rows at `places`.
    ///
    /// # Errors
    /// `NotFound` when a source column is gone.
    pub(crate) fn plan(
        number: u32,
        snapshot: &Snapshot,
        sources: &[String],
        places: RowPlaces,
        task_rows: u32,
        before: Option<&Pass>,
    ) -> Result<Record> {
        let mut files = snapshot.source_files(sources)?;
        let fragments = places.into_iter().map(|(fragment, mut places)| {
            places.optimize();
            let source_files = files.remove(&fragment).unwrap_or_default();
            PlannedFragment { fragment, source_files, places }
        });
        Ok(Record::Planned {
            pass: number,
            version: snapshot.version(),
            task_rows,
            first_task: before.map_or(0, Pass::next_task),
            first_group: before.map_or(0, Pass::next_group),
            fragments: fragments.collect(),
        })
    }

    /// The pass that a record says, over the version that it names.
    pub(crate) fn open(record: &Record, snapshot: Snapshot) -> Result<Pass> {
        let Record::Planned { pass, task_rows, first_task, first_group, fragments, .. } = record
        else {
            return Err(Error::internal("a pass is opened from another record"));
        };
        let (mut task, mut group) = (*first_task, *first_group);
        let mut opened = Vec::with_capacity(fragments.len());
        for planned in fragments {
            let tasks = planned.places.len().div_ceil(u64::from(*task_rows));
            opened.push(PassFragment { planned: planned.clone(), group, first_task: task, tasks });
            task += tasks;
            group += 1;
        }
        Ok(Pass {
            number: *pass,
            snapshot,
            fragments: opened,
            task_rows: *task_rows,
            row_ids: Mutex::default(),
        })
    }

    /// Every task with its group.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.fragments.iter().flat_map(|fragment| {
            let tasks = fragment.first_task..fragment.first_task + fragment.tasks;
            tasks.map(|task| (task, fragment.group))
        })
    }

    fn next_task(&self) -> u64 {
        self.fragments.last().map_or(0, |last| last.first_task + last.tasks)
    }

    fn next_group(&self) -> u32 {
        self.fragments.last().map_or(0, |last| last.group + 1)
    }

    /// The fragment of a group.
    pub(crate) fn group(&self, group: u32) -> Option<&PassFragment> {
        self.fragments.iter().find(|fragment| fragment.group == group)
    }

    fn fragment_of(&self, task: u64) -> Result<&PassFragment> {
        let found = self.fragments.iter().find(|fragment| {
            (fragment.first_task..fragment.first_task + fragment.tasks).contains(&task)
        });
        found.ok_or_else(|| Error::not_found(format!("task {task} is not in the pass under way")))
    }

    /// How many rows a task has.
    ///
    /// # Errors
    /// `NotFound` for a task of another pass.
    pub(crate) fn rows_of(&self, task: u64) -> Result<u64> {
        let fragment = self.fragment_of(task)?;
        let start = (task - fragment.first_task) * u64::from(self.task_rows);
        Ok((fragment.planned.places.len() - start).min(u64::from(self.task_rows)))
    }

    /// The places of a task's rows.
    pub(crate) fn places_of(&self, task: u64) -> Result<RoaringBitmap> {
        let fragment = self.fragment_of(task)?;
        let start = (task - fragment.first_task) * u64::from(self.task_rows);
        let places = &fragment.planned.places;
        let first = u32::try_from(start).ok().and_then(|start| places.select(start));
        let first = first.ok_or_else(|| Error::internal("a task without rows"))?;
        Ok(places.range(first..).take(self.task_rows as usize).collect())
    }

    /// The rows of a task, by place.
    ///
    /// # Errors
    /// `NotFound` for a task of another pass; those of reading row ids.
    pub(crate) async fn task_rows(&self, task: u64) -> Result<TaskRows> {
        let fragment = self.fragment_of(task)?;
        let places = self.places_of(task)?;
        let all = self.row_ids(fragment).await?;
        let rows: TaskRows =
            all.iter().filter(|(place, _)| places.contains(*place)).copied().collect();
        if rows.len() as u64 != places.len() {
            return Err(Error::internal(format!(
                "a task has {} rows and {} row ids",
                places.len(),
                rows.len()
            )));
        }
        Ok(rows)
    }

    /// The row ids of all rows of a fragment in the pass.
    pub(crate) async fn row_ids(&self, fragment: &PassFragment) -> Result<Arc<TaskRows>> {
        let id = fragment.planned.fragment;
        let cached = || self.row_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = cached().iter().find(|(of, _)| *of == id) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(self.snapshot.row_ids_at(id, &fragment.planned.places).await?);
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
