//! Clusters of signatures: those that are alike are united, and with them those that are alike to these.
//!
//! ```text
//!   signatures ─► equal ones are one ─► for each band: sorted by its bytes ─► runs of equal bytes
//!                                              pairs of a run that agree in enough slots are united ◄┘
//! ```
//!
//! The outcome depends on the signatures and their order and on nothing else. A pair that shares no band is
//! not looked at, and of a run each is compared with the 1,000 before it: what is left out is a pair that
//! is alike, whose members are each alike to nobody else that would unite them.

use std::sync::atomic::{AtomicBool, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::rule::Rule;

/// Signatures of a run that one is compared with.
const COMPARED_MAX: usize = 1_000;

/// Signatures of one length.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    slots: usize,
    bytes: Vec<u8>,
}

impl Signatures {
    /// Room for `count` signatures of `slots` bytes.
    pub(crate) fn new(slots: usize, count: usize) -> Signatures {
        Signatures { slots, bytes: Vec::with_capacity(slots * count) }
    }

    /// Adds one; false when it has another length.
    pub(crate) fn push(&mut self, signature: &[u8]) -> bool {
        let fits = signature.len() == self.slots;
        if fits {
            self.bytes.extend_from_slice(signature);
        }
        fits
    }

    /// Bytes of each.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.slots.max(1)
    }

    fn of(&self, index: u32) -> &[u8] {
        let start = index as usize * self.slots;
        &self.bytes[start..start + self.slots]
    }
}

/// For each signature the first one of its cluster; nothing when `stop` was set meanwhile.
pub(crate) fn clusters(
    signatures: &Signatures,
    rule: &Rule,
    stop: &AtomicBool,
) -> Option<Vec<u32>> {
    let count = u32::try_from(signatures.len()).ok()?;
    let mut united = Sets { parents: (0..count).collect() };
    let mut keys: Vec<(u64, u32)> =
        (0..count).map(|index| (xxh3_64(signatures.of(index)), index)).collect();
    keys.sort_unstable();
    for run in keys.chunk_by(|a, b| a.0 == b.0) {
        let (_, first) = run[0];
        for (_, index) in &run[1..] {
            // Others whose hash is the same by chance go through the bands as everybody.
            if signatures.of(*index) == signatures.of(first) {
                united.unite(first, *index);
            }
        }
    }
    // One of each that are equal: the bands say nothing more of the others.
    let single: Vec<u32> = (0..count).filter(|index| united.is_first(*index)).collect();
    for band in 0..rule.bands {
        let slots = band * rule.band_slots..(band + 1) * rule.band_slots;
        keys.clear();
        keys.extend(
            single.iter().map(|index| (key_of(&signatures.of(*index)[slots.clone()]), *index)),
        );
        keys.sort_unstable();
        for run in keys.chunk_by(|a, b| a.0 == b.0) {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            unite_run(signatures, rule, run, &mut united);
        }
    }
    Some((0..count).map(|index| united.first_of(index)).collect())
}

/// Unites those of a run that are alike.
fn unite_run(signatures: &Signatures, rule: &Rule, run: &[(u64, u32)], united: &mut Sets) {
    for (at, (_, index)) in run.iter().enumerate() {
        let Some(agreeing_min) = rule.agreeing_min else {
            united.unite(run[0].1, *index);
            continue;
        };
        for (_, other) in &run[at.saturating_sub(COMPARED_MAX)..at] {
            let is_together = united.first_of(*other) == united.first_of(*index);
            if !is_together
                && agreeing(signatures.of(*other), signatures.of(*index)) >= agreeing_min
            {
                united.unite(*other, *index);
            }
        }
    }
}

/// Slots in which two signatures agree.
fn agreeing(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// A band as a number: its bytes where they fit.
fn key_of(band: &[u8]) -> u64 {
    match band.len() {
        0..=8 => band.iter().fold(0, |key, byte| (key << 8) | u64::from(*byte)),
        _ => xxh3_64(band),
    }
}

/// Sets that can be united, each known by its smallest member.
struct Sets {
    parents: Vec<u32>,
}

impl Sets {
    fn is_first(&self, index: u32) -> bool {
        self.parents[index as usize] == index
    }

    fn first_of(&mut self, mut index: u32) -> u32 {
        while !self.is_first(index) {
            let parent = self.parents[index as usize];
            // Shorter for who asks next.
            self.parents[index as usize] = self.parents[parent as usize];
            index = self.parents[index as usize];
        }
        index
    }

    fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.first_of(a), self.first_of(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signatures(rows: &[[u8; 8]]) -> Signatures {
        let mut found = Signatures::new(8, rows.len());
        assert!(rows.iter().all(|row| found.push(row)));
        found
    }

    fn run(rows: &[[u8; 8]], bands: usize, band_slots: usize, min: Option<usize>) -> Vec<u32> {
        let rule = Rule { bands, band_slots, agreeing_min: min };
        clusters(&signatures(rows), &rule, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn what_shares_a_band_is_one_cluster_whatever_lies_between() {
        let rows = [
            [1, 1, 2, 2, 3, 3, 4, 4],
            [9; 8],
            [1, 1, 5, 5, 6, 6, 7, 7],
            [8, 8, 8, 8, 8, 8, 7, 7],
            [9; 8],
            [7, 7, 8, 8, 0, 0, 9, 1],
        ];
        assert_eq!(run(&rows, 4, 2, None), [0, 1, 0, 0, 1, 0]);
        // The last band is not looked at.
        assert_eq!(run(&rows, 3, 2, None), [0, 1, 0, 3, 1, 3]);
        // 0 and 2 agree in two slots, 3 and 5 as well.
        assert_eq!(run(&rows, 4, 2, Some(2)), [0, 1, 0, 0, 1, 0]);
        assert_eq!(run(&rows, 4, 2, Some(3)), [0, 1, 2, 3, 1, 5]);
        assert_eq!(run(&rows, 1, 8, Some(8)), [0, 1, 2, 3, 1, 5]);
        assert!(run(&[], 4, 2, None).is_empty());
    }

    #[test]
    fn the_outcome_is_that_of_comparing_all() {
        // Small numbers, so that much is alike.
        let mut state = 7_u64;
        let mut dice = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 33) as u8 % 4
        };
        let rows: Vec<[u8; 8]> = (0..400).map(|_| std::array::from_fn(|_| dice())).collect();
        let found = run(&rows, 4, 2, Some(7));
        let mut expected = Sets { parents: (0..400).collect() };
        for a in 0..400_usize {
            for b in 0..a {
                // Who agrees in seven of eight slots shares a band of two.
                if agreeing(&rows[a], &rows[b]) >= 7 {
                    expected.unite(a as u32, b as u32);
                }
            }
        }
        let expected: Vec<u32> = (0..400).map(|index| expected.first_of(index)).collect();
        assert_eq!(found, expected);
        let sizes = found.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!((2..399).contains(&sizes), "{sizes} clusters show nothing");
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let rule = Rule { bands: 4, band_slots: 2, agreeing_min: None };
        assert_eq!(clusters(&signatures(&[[1; 8]]), &rule, &AtomicBool::new(true)), None);
    }
}
