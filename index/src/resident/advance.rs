//! From one version to a later one: what is masked, and what is new.
//!
//! Fragments are compared by their marks. Those that are as they were are not looked at; of those of which
//! only deletions changed, the row ids are read; the others are read whole. A row that came back with the
//! vector that it had, as after a compaction, stays where it is.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use futures::TryStreamExt;
use lakebed_core::{Error, Result};
use lakebed_storage::{FragmentMark, ScanSpec, Slice, Snapshot};
use roaring::RoaringTreemap;

use super::bits::Bits;
use super::calibrate::Effort;
use super::quantiser::Quantiser;
use super::read;
use super::row_ids::RowIds;
use super::segment::{Scratch, Segment, Vectors};
use super::state::{Known, Moment, Part, State};

/// What changed between a state and a version.
#[derive(Debug, Default)]
pub struct Difference {
    /// Fragments of which rows were deleted, and nothing else happened.
    fewer: Vec<FragmentMark>,
    /// Fragments that are new or have other values.
    new: Vec<FragmentMark>,
    /// The ids of rows whose fragment is gone or has other values.
    doubtful: RoaringTreemap,
    marks: Vec<FragmentMark>,
}

impl Difference {
    /// Compares a state with the marks of a version.
    pub fn of(state: &State, marks: Vec<FragmentMark>) -> Difference {
        let mut found = Difference::default();
        let mut gone: BTreeMap<u32, &Known> =
            state.fragments.iter().map(|(id, it)| (*id, it)).collect();
        for mark in &marks {
            match gone.remove(&mark.fragment) {
                Some(known) if known.mark == *mark => {}
                Some(known) if known.mark.data == mark.data => found.fewer.push(*mark),
                Some(known) => {
                    found.new.push(*mark);
                    found.doubtful.extend(known.ids.iter());
                }
                None => found.new.push(*mark),
            }
        }
        for known in gone.values() {
            found.doubtful.extend(known.ids.iter());
        }
        found.marks = marks;
        found
    }

    /// Rows whose vectors have to be read to follow it.
    pub fn new_rows(&self) -> u64 {
        self.new.iter().map(|mark| mark.rows).sum()
    }

    /// Rows of which only the ids have to be read.
    pub fn fewer_rows(&self) -> u64 {
        self.fewer.iter().map(|mark| mark.rows).sum()
    }

    /// Nothing changed.
    pub fn is_none(&self) -> bool {
        self.new.is_empty() && self.fewer.is_empty() && self.doubtful.is_empty()
    }
}

/// The state of a later version. More than `fresh_max` new rows are too many to be compared one by one:
/// nothing then, and the index has to be built anew.
///
/// # Errors
/// As a scan of the version.
pub async fn advanced(
    state: &State,
    quantiser: &Quantiser,
    snapshot: &Snapshot,
    column: &str,
    difference: Difference,
    fresh_max: usize,
) -> Result<Option<State>> {
    let Difference { fewer, new, mut doubtful, marks } = difference;
    let mut fragments = BTreeMap::new();
    let mut hidden = RoaringTreemap::new();
    for mark in &fewer {
        let ids = ids_of(snapshot, mark).await?;
        if let Some(known) = state.fragments.get(&mark.fragment) {
            hidden |= gone(&known.ids, &ids);
        }
        fragments.insert(mark.fragment, Known { mark: *mark, ids: Arc::new(ids) });
    }
    let mut fresh = read::Rows::default();
    let mut scratch = Scratch::default();
    for mark in &new {
        let ids = ids_of(snapshot, mark).await?;
        let mut rows = read::vectors(snapshot, column, vec![slice(mark)]).await?;
        while let Some(rows) = rows.try_next().await? {
            let vectors = rows.numbers.chunks_exact(quantiser.dimension().max(1));
            for (id, vector) in rows.ids.iter().zip(vectors) {
                if doubtful.contains(*id) && has_vector(state, *id, vector, &mut scratch)? {
                    doubtful.remove(*id);
                } else {
                    fresh.ids.push(*id);
                    fresh.numbers.extend_from_slice(vector);
                }
            }
            if fresh.ids.len() > fresh_max {
                return Ok(None);
            }
        }
        fragments.insert(mark.fragment, Known { mark: *mark, ids: Arc::new(ids) });
    }
    hidden |= doubtful;
    // A row that is written again in another place is masked in the old one.
    hidden.extend(fresh.ids.iter().copied());
    for mark in marks {
        if let (false, Some(known)) =
            (fragments.contains_key(&mark.fragment), state.fragments.get(&mark.fragment))
        {
            fragments.insert(mark.fragment, known.clone());
        }
    }
    let mut parts: Vec<Part> = state.parts.iter().map(|part| without(part, &hidden)).collect();
    parts.retain(|part| part.visible.count() > 0);
    if let Some(part) = part_of(quantiser, fresh, state.sorted())? {
        parts.push(part);
    }
    Ok(Some(State { moment: Moment::of(snapshot), fragments, parts }))
}

fn slice(mark: &FragmentMark) -> Slice {
    Slice { fragment: mark.fragment, start: 0, rows: mark.rows }
}

/// The ids of the visible rows of a fragment.
pub async fn ids_of(snapshot: &Snapshot, mark: &FragmentMark) -> Result<RowIds> {
    let spec = ScanSpec { slices: Some(vec![slice(mark)]), ..ScanSpec::default() };
    Ok(RowIds::of(read::row_ids(snapshot, spec).await?))
}

/// The ids of a fragment that are not among those that it has now. Rows go, and the others stay in their order.
fn gone(known: &RowIds, now: &RowIds) -> RoaringTreemap {
    let mut left = now.iter().peekable();
    let gone = known.iter().filter(|id| left.next_if_eq(id).is_none()).collect();
    if left.next().is_none() {
        return gone;
    }
    let now: RoaringTreemap = now.iter().collect();
    known.iter().filter(|id| !now.contains(*id)).collect()
}

fn without(part: &Part, hidden: &RoaringTreemap) -> Part {
    let rows = part.segment.ids.rows_in(hidden).and(&part.visible);
    if rows.count() == 0 {
        return part.clone();
    }
    let mut visible = Bits::clone(&part.visible);
    for row in rows.iter() {
        visible.set(row, false);
    }
    Part { segment: Arc::clone(&part.segment), visible: Arc::new(visible) }
}

/// Whether a visible row has this very vector.
fn has_vector(state: &State, id: u64, vector: &[f32], scratch: &mut Scratch) -> Result<bool> {
    for part in &state.parts {
        if let Some(row) = part.segment.ids.row_of(id).filter(|row| part.visible.has(*row)) {
            let known = part.segment.vector(row, vector.len(), scratch)?;
            let mut pairs = known.iter().zip(vector);
            return Ok(pairs.all(|(one, other)| one.to_bits() == other.to_bits()));
        }
    }
    Ok(false)
}

/// Rows that are compared one by one, as a part of a state; `sorted` as in [`Effort`].
pub fn part_of(quantiser: &Quantiser, rows: read::Rows, sorted: usize) -> Result<Option<Part>> {
    let stride = quantiser.stride();
    let mut ids = Vec::with_capacity(rows.ids.len());
    let mut codes = Vec::with_capacity(rows.ids.len() * stride);
    let mut numbers = Vec::with_capacity(rows.numbers.len());
    let mut code = vec![0; stride];
    for (id, vector) in rows.ids.iter().zip(rows.numbers.chunks_exact(quantiser.dimension().max(1)))
    {
        if quantiser.encode(vector, &mut code) {
            ids.push(*id);
            codes.extend_from_slice(&code);
            numbers.extend_from_slice(vector);
        }
    }
    if ids.is_empty() {
        return Ok(None);
    }
    if ids.len() > u32::MAX as usize {
        return Err(Error::invalid("more than 2^32 rows are too many for a resident index"));
    }
    Ok(Some(Part::whole(Segment {
        ids: RowIds::of(ids),
        codes,
        graph: None,
        vectors: Vectors::Memory(numbers),
        effort: Effort { sorted, ..Effort::default() },
        name: OnceLock::new(),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_gone_are_told_in_any_order() {
        let known = RowIds::of([7, 8, 9, 3, 4, 100]);
        let gone = |now: &[u64]| {
            gone(&known, &RowIds::of(now.iter().copied())).into_iter().collect::<Vec<u64>>()
        };
        assert!(gone(&[7, 8, 9, 3, 4, 100]).is_empty());
        assert_eq!(gone(&[7, 9, 3, 100]), [4, 8]);
        assert_eq!(gone(&[]), [3, 4, 7, 8, 9, 100]);
        assert_eq!(gone(&[100, 9, 7, 3]), [4, 8], "not in their order");
        assert_eq!(gone(&[7, 8, 9, 5, 100]), [3, 4], "one that was not known");
    }
}
