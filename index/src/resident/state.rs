//! What a resident index shows at one version: segments, and which of their rows.
//!
//! A state never changes. A search takes one and keeps it; a later version is a new state that shares the
//! segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use lakebed_core::Result;
use lakebed_storage::{FragmentMark, Snapshot};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::calibrate::Effort;
use super::nearest::{Hit, nearest};
use super::quantiser::{Quantiser, Query};
use super::row_ids::RowIds;
use super::segment::{Segment, Way};

/// A segment and which of its rows are visible.
#[derive(Debug, Clone)]
pub struct Part {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Its rows that the version has with the vector that the segment knows.
    pub visible: Arc<Bits>,
}

impl Part {
    /// All rows of a segment.
    pub fn whole(segment: Segment) -> Part {
        let visible = Arc::new(Bits::all(segment.rows()));
        Part { segment: Arc::new(segment), visible }
    }
}

/// A fragment that is known.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it was when it was read.
    pub mark: FragmentMark,
    /// Its visible rows, those without a vector as well.
    pub ids: Arc<RowIds>,
}

/// Which version, and of which history: a branch that is made anew, or a lake that was put back, has the same
/// numbers for other rows, at other times. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment {
    /// When it was committed, in nanoseconds since 1970; never the same twice, nor earlier than the version
    /// before.
    pub committed_at_ns: i64,
    /// Its number.
    pub version: u64,
}

impl Moment {
    /// That of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Moment {
        // Until the year 2262.
        let committed_at_ns = snapshot.committed_at().timestamp_nanos_opt().unwrap_or(i64::MAX);
        Moment { committed_at_ns, version: snapshot.version() }
    }
}

/// A version of a column.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The version.
    pub moment: Moment,
    /// Its fragments.
    pub fragments: BTreeMap<u32, Known>,
    /// Its rows.
    pub parts: Vec<Part>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The nearest rows, nearest first.
    pub hits: Vec<Hit>,
    /// The way through the largest segment.
    pub way: Way,
    /// Rows that were compared one by one.
    pub compared: u64,
}

/// The rows of each part that pass a filter.
pub type Passing = Vec<Arc<Bits>>;

impl State {
    /// Rows that can be found.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.visible.count()).sum()
    }

    /// Rows that a graph leads to.
    pub fn graph_rows(&self) -> usize {
        let graphs = self.parts.iter().filter(|part| part.segment.graph.is_some());
        graphs.map(|part| part.visible.count()).sum()
    }

    /// The segment with the most rows.
    fn largest(&self) -> Option<&Segment> {
        let segments = self.parts.iter().map(|part| part.segment.as_ref());
        segments.max_by_key(|segment| segment.rows())
    }

    /// What is sorted by true distances for each row that is wanted: as much as any segment needs.
    pub fn sorted(&self) -> usize {
        let needs = self.parts.iter().map(|part| part.segment.effort.sorted);
        needs.max().unwrap_or(Effort::default().sorted)
    }

    /// Rows that are there and masked.
    pub fn masked_rows(&self) -> usize {
        self.parts.iter().map(|part| part.segment.rows() - part.visible.count()).sum()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.segment.bytes() + part.visible.bytes());
        let known = self.fragments.values().map(|known| known.ids.bytes() + size_of::<Known>());
        parts.sum::<usize>() + known.sum::<usize>()
    }

    /// Which rows of each part are in a set.
    pub fn passing(&self, ids: &RoaringTreemap) -> Passing {
        let rows = self.parts.iter().map(|part| part.segment.ids.rows_in(ids).and(&part.visible));
        rows.map(Arc::new).collect()
    }

    /// The `k` nearest rows to a query, of all or of those that pass. Of each segment candidates are
    /// looked for, as many as it needs, and the best of all are sorted by their true distances. `ef` is that
    /// number for the largest graph; smaller ones take as much less than it as they need less.
    ///
    /// # Errors
    /// `Internal` when the vectors cannot be read.
    pub fn search(
        &self,
        quantiser: &Quantiser,
        query: &Query,
        k: usize,
        ef: Option<usize>,
        passing: Option<&Passing>,
    ) -> Result<Answer> {
        let of_largest = self.largest().map_or(1, |segment| segment.effort.ef.max(1));
        let sorted = self.sorted();
        let mut near = Vec::new();
        let mut way = (0, Way::Exact);
        let mut compared = 0;
        for (at, part) in self.parts.iter().enumerate() {
            let visible = passing.and_then(|passing| passing.get(at)).unwrap_or(&part.visible);
            if visible.count() == 0 {
                continue;
            }
            let needed = part.segment.effort;
            let ef = ef.map_or(needed.ef, |ef| (ef * needed.ef).div_ceil(of_largest).min(ef));
            let effort = Effort { ef, sorted, ..needed };
            let (found, own) = part.segment.search(quantiser, query, (k, effort), visible);
            way = way.max((part.segment.rows(), own));
            if own == Way::Exact {
                compared += visible.count() as u64;
            }
            near.extend(found.into_iter().map(|candidate| (candidate, part.segment.as_ref())));
        }
        near.sort_unstable_by_key(|(candidate, _)| *candidate);
        near.truncate(Effort { sorted, ..Effort::default() }.sorted_truly(k));
        let hits = nearest(near, quantiser, query, k)?;
        Ok(Answer { hits, way: way.1, compared })
    }
}
