//! Rows that nobody has: pieces of a job's rows, from which tasks are cut when somebody asks for one.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::RowRange;

/// Pieces that were tried before are looked at this far for the one with the lowest rows.
const LOOK_MAX: usize = 64;

/// Rows in a row with one history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Piece {
    /// The row after the last.
    pub(super) end: u64,
    /// Not before this time.
    pub(super) ready_ms: i64,
    pub(super) failures: u32,
    pub(super) losses: u32,
    /// The attempt that had them last.
    pub(super) attempt: u64,
    /// Whether that attempt was given back or failed: it cannot be taken up again.
    pub(super) is_over: bool,
}

impl Piece {
    /// Whether an attempt may have rows of the piece while nobody has them: after a restart of the server,
    /// or when its lease ran out and nobody else got them.
    pub(super) fn may_take_up(&self, attempt: u64) -> bool {
        attempt > self.attempt || (attempt == self.attempt && !self.is_over)
    }
}

/// The pieces of a job, by their first row.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pieces: BTreeMap<u64, Piece>,
    due: BTreeSet<(i64, u64)>,
    rows: u64,
}

impl Ready {
    /// How many rows there are.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many tasks of some rows they make.
    pub(super) fn tasks(&self, rows: u32) -> usize {
        let of = |(first, piece): (&u64, &Piece)| (piece.end - first).div_ceil(u64::from(rows));
        usize::try_from(self.pieces.iter().map(of).sum::<u64>()).unwrap_or(usize::MAX)
    }

    pub(super) fn add(&mut self, first: u64, piece: Piece) {
        if first < piece.end {
            self.rows += piece.end - first;
            self.due.insert((piece.ready_ms, first));
            self.pieces.insert(first, piece);
        }
    }

    fn remove(&mut self, first: u64) -> Option<Piece> {
        let piece = self.pieces.remove(&first)?;
        self.due.remove(&(piece.ready_ms, first));
        self.rows -= piece.end - first;
        Some(piece)
    }

    /// The first row of the piece to cut from next: the lowest of those that may be, so that groups are
    /// done one after the other.
    pub(super) fn next(&self, now_ms: i64) -> Option<u64> {
        // Those that were never tried lie at time 0, in order; others are few.
        let due = self.due.range(..=(now_ms, u64::MAX));
        due.map(|(_, first)| *first).take(LOOK_MAX).min()
    }

    /// Cuts a task of at most some rows from the head of a piece.
    pub(super) fn cut(&mut self, first: u64, rows_max: u32) -> Option<(RowRange, Piece)> {
        let end = self.pieces.get(&first)?.end;
        let range = RowRange::new(first, (end - first).min(u64::from(rows_max)));
        self.carve(range).map(|piece| (range, piece))
    }

    /// Workers that were lost with the piece that begins here.
    pub(super) fn losses(&self, first: u64) -> u32 {
        self.pieces.get(&first).map_or(0, |piece| piece.losses)
    }

    /// The piece that has all rows of a range.
    pub(super) fn find(&self, range: RowRange) -> Option<&Piece> {
        let (_, piece) = self.pieces.range(..=range.first).next_back()?;
        (range.end() <= piece.end).then_some(piece)
    }

    /// Takes the rows of a range out of the piece that has them all; says what that was.
    pub(super) fn carve(&mut self, range: RowRange) -> Option<Piece> {
        self.find(range)?;
        let first = *self.pieces.range(..=range.first).next_back()?.0;
        let piece = self.remove(first)?;
        self.add(first, Piece { end: range.first, ..piece.clone() });
        self.add(range.end(), piece.clone());
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carved_leaves_the_rest() {
        let mut ready = Ready::default();
        ready.add(10, Piece { end: 20, failures: 2, ..Piece::default() });
        assert_eq!(ready.carve(RowRange::new(15, 6)), None);
        assert_eq!(ready.carve(RowRange::new(9, 2)), None);
        assert_eq!(ready.carve(RowRange::new(13, 3)).map(|piece| piece.failures), Some(2));
        assert_eq!((ready.rows(), ready.tasks(2), ready.next(0)), (7, 4, Some(10)));
        let (range, _) = ready.cut(10, 100).unwrap();
        assert_eq!((range.first, range.end()), (10, 13));
        let (range, _) = ready.cut(16, 3).unwrap();
        assert_eq!((range.first, range.end()), (16, 19));
        let (range, piece) = ready.cut(19, 3).unwrap();
        assert_eq!((range.end(), piece.failures), (20, 2));
        assert!(ready.is_empty() && ready.next(i64::MAX).is_none());
    }

    #[test]
    fn what_is_not_due_waits() {
        let mut ready = Ready::default();
        ready.add(0, Piece { end: 5, ready_ms: 100, ..Piece::default() });
        ready.add(5, Piece { end: 9, ..Piece::default() });
        assert_eq!(ready.next(99), Some(5));
        assert_eq!(ready.next(100), Some(0));
    }
}
