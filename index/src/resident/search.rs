//! Searches of one segment's codes: through its graph, with or without a mask, and row by row.

use std::cell::RefCell;

use super::bits::Bits;
use super::graph::Graph;
use super::kernel::prefetch;
use super::quantiser::Query;

/// A row and how far its code is; ordered by distance, then row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// In steps of the scale, squared.
    pub distance: u32,
    /// The row in its segment.
    pub row: u32,
}

/// The codes of a segment.
#[derive(Clone, Copy)]
pub struct Codes<'a> {
    /// One row behind the other.
    pub bytes: &'a [u8],
    /// Bytes of a row.
    pub stride: usize,
}

impl<'a> Codes<'a> {
    /// The code of a row.
    #[inline]
    pub fn of(self, row: u32) -> &'a [u8] {
        let start = row as usize * self.stride;
        self.bytes.get(start..start + self.stride).unwrap_or_default()
    }
}

/// How wide the way through a graph is. Where neighbours are easily told from others few rows are looked
/// around from, and where not many: what is much farther than the farthest that is wanted leads nowhere
/// (Al-Jazzazi et al., "Distance Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor
/// Search", 2025).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// Candidates that are kept, at most.
    pub most: usize,
    /// The way ends where all is farther than the candidate of this place, the nearest being the first,
    pub rank: usize,
    /// by this factor. Distances are squared ones.
    pub slack: f32,
}

impl Beam {
    /// All of the nearest so many candidates are looked around from.
    pub fn of(candidates: usize) -> Beam {
        Beam { most: candidates, rank: candidates, slack: 1.0 }
    }
}

/// The rows that pass a filter, and what looking for them may cost.
#[derive(Clone, Copy)]
pub struct Mask<'a> {
    /// These rows.
    pub passing: &'a Bits,
    /// Rows that are looked around from, at most, until it is given up.
    pub steps: usize,
}

/// Candidates on the way past rows that do not pass, at most: more are moved about for longer than it takes to
/// compare rows.
const MASKED_MOST: usize = 8_192;

/// The nearest that were seen, nearest first, and which of them were looked around from: each is its distance,
/// which never takes more than 31 bits, then its row, then whether it is done. One number is compared and moved
/// sooner than three.
struct Pool {
    found: Vec<u64>,
    beam: Beam,
    /// The distance from which on nothing is of use, by the beam.
    limit: u32,
}

/// Set in what was looked around from.
const DONE: u64 = 1;

fn packed(candidate: Candidate) -> u64 {
    u64::from(candidate.distance) << 33 | u64::from(candidate.row) << 1
}

fn unpacked(packed: u64) -> Candidate {
    Candidate { distance: (packed >> 33) as u32, row: (packed >> 1) as u32 }
}

impl Default for Pool {
    fn default() -> Self {
        Pool { found: Vec::new(), beam: Beam::of(1), limit: u32::MAX }
    }
}

impl Pool {
    fn restart(&mut self, beam: Beam) {
        self.found.clear();
        self.beam = Beam { most: beam.most.max(1), rank: beam.rank.max(1), ..beam };
        self.limit = u32::MAX;
    }

    /// The distance from which on nothing is kept.
    #[inline]
    fn bound(&self) -> u32 {
        match self.found.last() {
            Some(last) if self.found.len() >= self.beam.most => {
                unpacked(*last).distance.min(self.limit)
            }
            _ => self.limit,
        }
    }

    /// All of it.
    fn candidates(&self) -> Vec<Candidate> {
        self.found.iter().map(|candidate| unpacked(*candidate)).collect()
    }

    /// The first place from this one on that was not looked around from.
    #[inline]
    fn next(&self, from: usize) -> usize {
        let left = self.found.get(from..).unwrap_or_default();
        from + left.iter().take_while(|one| **one & DONE != 0).count()
    }

    /// Puts a candidate in its place, and says which that is.
    #[inline]
    fn add(&mut self, candidate: Candidate) -> usize {
        if self.found.len() >= self.beam.most {
            self.found.pop();
        }
        let candidate = packed(candidate);
        let place = self.found.partition_point(|other| *other < candidate);
        self.found.insert(place, candidate);
        let rank = self.beam.rank;
        if place < rank
            && let Some(last) = self.found.get(rank - 1)
        {
            // What is as far as that is not too far.
            let limit = unpacked(*last).distance as f32 * self.beam.slack;
            self.limit = (limit as u32).saturating_add(1);
        }
        place
    }
}

/// What a search needs besides its result, kept from one to the next.
#[derive(Default)]
struct Scratch {
    /// A bit for each row that this search has seen: few bytes, which stay near.
    seen: Vec<u64>,
    /// These rows.
    all_seen: Vec<u32>,
    pool: Pool,
    passing: Pool,
    near: Vec<u32>,
}

impl Scratch {
    fn restart(&mut self, rows: usize) {
        if self.all_seen.len() < self.seen.len() / 8 {
            for row in &self.all_seen {
                if let Some(seen) = self.seen.get_mut(*row as usize / 64) {
                    *seen = 0;
                }
            }
        } else {
            self.seen.fill(0);
        }
        self.all_seen.clear();
        if self.seen.len() < rows.div_ceil(64) {
            self.seen.resize(rows.div_ceil(64), 0);
        }
    }

    /// Keeps of a node's neighbours those that this search has not seen.
    #[inline]
    fn unseen(&mut self, neighbours: &[u32]) {
        self.near.clear();
        self.near.resize(neighbours.len(), 0);
        let mut unseen = 0;
        for row in neighbours {
            let word = self.seen.get_mut(*row as usize / 64);
            if let (Some(word), Some(place)) = (word, self.near.get_mut(unseen)) {
                // Every row is written and the next one over it if it was seen: nobody could guess which
                // were, and to guess wrong costs more.
                let bit = *row % 64;
                *place = *row;
                unseen += usize::from(*word >> bit & 1 == 0);
                *word |= 1 << bit;
            }
        }
        self.near.truncate(unseen);
        self.all_seen.extend_from_slice(&self.near);
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The rows of the lowest layer next to where the layers above lead.
fn entry(graph: &Graph, codes: Codes<'_>, query: &Query) -> u32 {
    let mut node = graph.entry;
    for layer in graph.layers.iter().rev() {
        let far = |node: u32| {
            let row = layer.rows.get(node as usize).copied().unwrap_or(0);
            query.distance(codes.of(row))
        };
        let mut best = far(node);
        loop {
            let nearer = layer.lists.of_node(node).iter().map(|next| (far(*next), *next)).min();
            match nearer {
                Some((distance, next)) if distance < best => (best, node) = (distance, next),
                _ => break,
            }
        }
        node = layer.below.get(node as usize).copied().unwrap_or(0);
    }
    node
}

/// The nearest rows that the graph leads to, nearest first.
pub fn through_graph(graph: &Graph, codes: Codes<'_>, query: &Query, beam: Beam) -> Vec<Candidate> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.pool.restart(beam);
        scratch.passing.restart(beam);
        walk(scratch, graph, codes, query, None);
        scratch.pool.candidates()
    })
}

/// The nearest rows of those that pass to which the graph leads, past others, nearest first. The way ends, as
/// without a mask, where all is much farther than what is wanted and passes; none when that is too long.
pub fn past_masked(
    graph: &Graph,
    codes: Codes<'_>,
    query: &Query,
    beam: Beam,
    mask: Mask<'_>,
) -> Option<Vec<Candidate>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.pool.restart(Beam { rank: usize::MAX, ..Beam::of(mask.steps.min(MASKED_MOST)) });
        scratch.passing.restart(beam);
        walk(scratch, graph, codes, query, Some(mask)).then(|| scratch.passing.candidates())
    })
}

/// Goes from row to row; whether to the end.
fn walk(
    scratch: &mut Scratch,
    graph: &Graph,
    codes: Codes<'_>,
    query: &Query,
    mask: Option<Mask<'_>>,
) -> bool {
    scratch.restart(graph.row_count());
    if graph.row_count() == 0 {
        return true;
    }
    let passing = mask.map(|mask| mask.passing);
    let first = entry(graph, codes, query);
    scratch.unseen(&[first]);
    gather(scratch, graph, codes, query, passing);
    let (mut place, mut steps) = (0, 0);
    while let Some(candidate) = scratch.pool.found.get_mut(place) {
        *candidate |= DONE;
        let Candidate { distance, row } = unpacked(*candidate);
        if distance >= scratch.pool.limit.min(scratch.passing.limit) {
            return true;
        }
        if mask.is_some_and(|mask| steps >= mask.steps) {
            return false;
        }
        steps += 1;
        scratch.unseen(graph.rows.of_node(row));
        // Where the way goes on, unless something nearer is found now.
        let next = scratch.pool.next(place + 1);
        if let Some(next) = scratch.pool.found.get(next) {
            prefetch(graph.rows.of_node(unpacked(*next).row));
        }
        place = gather(scratch, graph, codes, query, passing).min(next);
    }
    // Past a mask, what fell out of a pool that is full might have led on.
    mask.is_none() || scratch.pool.bound() >= scratch.passing.limit
}

/// Compares the rows that were found near by; the first place of the pool that changed.
#[inline]
fn gather(
    scratch: &mut Scratch,
    graph: &Graph,
    codes: Codes<'_>,
    query: &Query,
    passing: Option<&Bits>,
) -> usize {
    // Brought near while the ones before are compared.
    const AHEAD: usize = 8;
    let near = std::mem::take(&mut scratch.near);
    for row in near.iter().take(AHEAD) {
        prefetch(codes.of(*row));
    }
    let mut nearest = usize::MAX;
    for (at, row) in near.iter().enumerate() {
        if let Some(next) = near.get(at + AHEAD) {
            prefetch(codes.of(*next));
        }
        let candidate = Candidate { distance: query.distance(codes.of(*row)), row: *row };
        if candidate.distance < scratch.pool.bound().min(scratch.passing.limit) {
            // The way may go on there: then its neighbours are looked up.
            prefetch(graph.rows.starts.get(*row as usize..=*row as usize).unwrap_or_default());
            nearest = nearest.min(scratch.pool.add(candidate));
        }
        if let Some(bits) = passing
            && candidate.distance < scratch.passing.bound()
            && bits.has(*row)
        {
            scratch.passing.add(candidate);
        }
    }
    scratch.near = near;
    nearest
}

/// The nearest rows of those that pass, all compared, nearest first.
pub fn row_by_row(
    codes: Codes<'_>,
    query: &Query,
    count: usize,
    rows: impl Iterator<Item = u32>,
) -> Vec<Candidate> {
    // Wide enough that a batch is worth its sorting.
    let kept = count.max(1);
    let mut found: Vec<Candidate> = Vec::with_capacity(kept * 2 + 64);
    let mut bound = u32::MAX;
    let mut ahead = std::collections::VecDeque::with_capacity(8);
    let mut rows = rows.fuse();
    loop {
        while ahead.len() < 8
            && let Some(row) = rows.next()
        {
            prefetch(codes.of(row));
            ahead.push_back(row);
        }
        let Some(row) = ahead.pop_front() else { break };
        let distance = query.distance(codes.of(row));
        if distance < bound {
            found.push(Candidate { distance, row });
            if found.len() == kept * 2 + 64 {
                found.select_nth_unstable(kept - 1);
                found.truncate(kept);
                bound = found.iter().map(|candidate| candidate.distance).max().unwrap_or(u32::MAX);
            }
        }
    }
    found.sort_unstable();
    found.truncate(kept);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_much_farther_than_what_is_wanted_is_not_kept() {
        let mut pool = Pool::default();
        pool.restart(Beam { most: 5, rank: 2, slack: 1.5 });
        let mut add = |distance, row| {
            pool.add(Candidate { distance, row });
            pool.bound()
        };
        assert_eq!(add(100, 1), u32::MAX);
        assert_eq!(add(200, 2), 301, "half as far again as the second");
        assert_eq!(add(210, 3), 301);
        assert_eq!(add(40, 4), 151);
        assert_eq!(add(0, 5), 61);
        assert_eq!(add(0, 6), 1, "what is not farther than the second is kept");
        let rows = pool.found.iter().map(|one| unpacked(*one).row);
        assert_eq!(rows.collect::<Vec<_>>(), [5, 6, 4, 1, 2]);
    }

    #[test]
    fn a_beam_without_a_rank_keeps_so_many() {
        let mut pool = Pool::default();
        pool.restart(Beam::of(2));
        for (distance, bound) in [(7, u32::MAX), (5, 7), (6, 6), (1, 5)] {
            pool.add(Candidate { distance, row: distance });
            assert_eq!(pool.bound(), bound);
        }
    }
}
