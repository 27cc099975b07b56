//! The row ids of a segment's rows, as runs: ids follow one another where rows were written together.

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::bits::Bits;

/// Row ids, each once, in the order of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowIds {
    /// Where each run begins: its first id and its first row.
    runs: Vec<(u64, u32)>,
    /// The runs in the order of their ids.
    by_id: Vec<u32>,
    rows: u32,
}

impl RowIds {
    /// Of ids in the order of the rows.
    pub fn of(ids: impl IntoIterator<Item = u64>) -> RowIds {
        let mut found = RowIds::default();
        let mut next = None;
        for id in ids {
            if next != Some(id) {
                found.runs.push((id, found.rows));
            }
            found.rows += 1;
            next = id.checked_add(1);
        }
        found.runs.shrink_to_fit();
        found.by_id = (0..found.runs.len() as u32).collect();
        let runs = &found.runs;
        found.by_id.sort_unstable_by_key(|run| runs.get(*run as usize).map(|(id, _)| *id));
        found
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// The id of a row.
    pub fn id_of(&self, row: u32) -> u64 {
        let run = self.runs.partition_point(|(_, first)| *first <= row);
        match run.checked_sub(1).and_then(|run| self.runs.get(run)) {
            Some((id, first)) => id + u64::from(row - first),
            None => u64::MAX,
        }
    }

    /// The row with an id.
    pub fn row_of(&self, id: u64) -> Option<u32> {
        let first_of =
            |run: &u32| self.runs.get(*run as usize).map_or(u64::MAX, |(first, _)| *first);
        let place = self.by_id.partition_point(|run| first_of(run) <= id).checked_sub(1)?;
        let (first_id, rows) = self.run(*self.by_id.get(place)? as usize);
        let row = id - first_id;
        (row < u64::from(rows.end - rows.start)).then(|| rows.start + row as u32)
    }

    /// All ids, in the order of the rows.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.runs.len()).flat_map(|run| {
            let (id, rows) = self.run(run);
            (0..u64::from(rows.end - rows.start)).map(move |row| id + row)
        })
    }

    /// The rows whose ids are in a set.
    pub fn rows_in(&self, ids: &RoaringTreemap) -> Bits {
        let mut found = Bits::none(self.len());
        for run in 0..self.runs.len() {
            let (first, rows) = self.run(run);
            let mut within = ids.iter();
            within.advance_to(first);
            for id in within.take_while(|id| id - first < u64::from(rows.end - rows.start)) {
                found.set(rows.start + (id - first) as u32, true);
            }
        }
        found
    }

    /// Whether what was read from a file can be row ids.
    pub fn is_sound(&self) -> bool {
        let mut order: Vec<(u64, u64)> = Vec::with_capacity(self.by_id.len());
        for run in &self.by_id {
            let (first, rows) = self.run(*run as usize);
            let Some(end) = first.checked_add(u64::from(rows.end.saturating_sub(rows.start)))
            else {
                return false;
            };
            order.push((first, end));
        }
        let rows_ascend = self.runs.windows(2).all(|pair| match pair {
            [(_, row), (_, next)] => row < next,
            _ => true,
        });
        let ids_are_apart = order.windows(2).all(|pair| match pair {
            [(_, end), (first, _)] => end <= first,
            _ => true,
        });
        rows_ascend
            && ids_are_apart
            && self.by_id.len() == self.runs.len()
            && self.runs.first().is_none_or(|(_, row)| *row == 0)
            && self.runs.last().is_none_or(|(_, row)| *row < self.rows)
            && (self.rows == 0) == self.runs.is_empty()
    }

    /// A run's first id, and its rows.
    fn run(&self, run: usize) -> (u64, std::ops::Range<u32>) {
        let Some((id, first)) = self.runs.get(run).copied() else { return (0, 0..0) };
        let end = self.runs.get(run + 1).map_or(self.rows, |(_, next)| *next);
        (id, first..end.max(first))
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.runs.capacity() * size_of::<(u64, u32)>() + self.by_id.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_rows_are_one_another() {
        let ids = [7, 8, 0, 1, 2, u64::MAX - 2, 100];
        let rows = RowIds::of(ids);
        assert!(rows.is_sound());
        assert_eq!(rows.iter().collect::<Vec<_>>(), ids);
        for (row, id) in ids.iter().enumerate() {
            assert_eq!(rows.id_of(row as u32), *id);
            assert_eq!(rows.row_of(*id), Some(row as u32));
        }
        for id in [3, 6, 9, 99, 101, u64::MAX] {
            assert_eq!(rows.row_of(id), None);
        }
        let few: RoaringTreemap = [1_u64, 3, 8].into_iter().collect();
        assert_eq!(rows.rows_in(&few).iter().collect::<Vec<_>>(), [1, 3]);
        let many: RoaringTreemap = (2..5_000_u64).collect();
        assert_eq!(rows.rows_in(&many).iter().collect::<Vec<_>>(), [0, 1, 4, 6]);
        assert_eq!(RowIds::of([]).rows_in(&many).count(), 0);
        assert!(RowIds::of([]).is_sound());
        assert!(!RowIds { rows: 3, ..RowIds::default() }.is_sound());
    }
}
