//! How much effort a search has to make: measured on the vectors themselves, against comparing all of them.
//!
//! Vectors differ: of some the neighbours are found with two dozen candidates, of others with hundreds, and of
//! some the codes of one byte cannot tell neighbours apart, so that more of the candidates have to be compared
//! by their true vectors. Small graphs need fewer than large ones, so each segment has its own. What no effort
//! finds gets no resident index.

use lakebed_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::nearest::nearest;
use super::quantiser::{Quantiser, Query};
use super::search::Beam;
use super::segment::{Scratch, Segment};

/// What the searches of an index keep and compare.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Effort {
    /// Rows that are looked around from on the way through a graph, on average.
    pub ef: usize,
    /// Candidates whose true distances are looked up, for each row that is wanted.
    pub sorted: usize,
    /// How fast neighbours get farther: the squared distance of one is about this power of its place. None
    /// where that is not known: then every way is as wide as the average.
    pub growth: Option<f32>,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { ef: EFS[0], sorted: 1, growth: None }
    }
}

impl Effort {
    /// The most that is ever tried.
    pub const MOST: Effort =
        Effort { ef: EFS[EFS.len() - 1], sorted: SORTED[SORTED.len() - 1], growth: None };

    /// Whether it is one that is tried: what comes from a file may be anything.
    pub fn is_sound(self) -> bool {
        (1..=Effort::MOST.ef).contains(&self.ef)
            && (1..=Effort::MOST.sorted).contains(&self.sorted)
            && self.growth.is_none_or(|growth| (0.0..=GROWTH_MAX).contains(&growth))
    }

    /// Candidates for `k` rows: for ten rows as many as were measured to find them, for more at least as many
    /// again.
    pub fn candidates(self, k: usize) -> usize {
        let sorted = if self.sorted > 1 { self.sorted_truly(k) } else { 0 };
        self.ef.max(k + k / 2).max(sorted)
    }

    /// The way through a graph for `k` rows. It ends where all is as much farther than the last of them as the
    /// last of all [`Effort::candidates`] is mostly, so easy queries make fewer steps and hard ones more.
    pub fn beam(self, k: usize) -> Beam {
        let candidates = self.candidates(k);
        let Some(growth) = self.growth else { return Beam::of(candidates) };
        let rank = (k * self.sorted).max(RANK_MIN);
        let times = (candidates as f32 / rank as f32).max(1.0);
        Beam { most: candidates * HARD, rank, slack: times.powf(growth) }
    }

    /// Of how many candidates the true distances are looked up: codes of a byte seldom put a row much further
    /// behind.
    pub fn sorted_truly(self, k: usize) -> usize {
        k * self.sorted + k / 2 + 8
    }
}

/// Queries, between these numbers: as many as are compared with all rows in a second or few.
const QUERIES: (usize, usize) = (16, 100);
/// Numbers that may be compared for them.
const NUMBERS: usize = 4_000_000_000;
/// Neighbours that are looked for, the row itself among them.
const NEIGHBOURS: usize = 11;
/// How many of them have to be found. More than a search is to find: a row is nearer to its own neighbours than
/// whatever comes from outside.
const RECALL: f64 = 0.985;
/// What the best effort has to find at least, where none finds so many: of rows that are equal to one another a
/// graph leads to some only.
const RECALL_MIN: f64 = 0.9;
/// Numbers of candidates that are tried,
const EFS: [usize; 10] = [24, 32, 48, 64, 96, 128, 192, 256, 384, 512];
/// and then numbers of those whose true distances are looked up.
const SORTED: [usize; 5] = [2, 4, 8, 16, 32];

/// The place of the candidate by which it is told how far others are, at least: the very nearest may be much
/// nearer than the next.
const RANK_MIN: usize = 10;
/// By how much the way of a hard query may be longer than that of others. Measured: with four times as many
/// hardly more is found.
const HARD: usize = 3;
/// Candidates of an effort in the midst of those that are tried.
const WIDTH: usize = 128;
/// A growth that is not exceeded: that of rows on a line.
const GROWTH_MAX: f32 = 2.0;

struct Asked {
    query: Query,
    /// How far the last of its neighbours is.
    last: f32,
}

/// The effort with which the neighbours of rows of a segment are found.
///
/// # Errors
/// `InvalidArgument` for vectors whose neighbours no effort finds; `Internal` when they cannot be read.
pub fn calibrated(segment: &Segment, quantiser: &Quantiser) -> Result<Effort> {
    if segment.rows() == 0 {
        return Ok(Effort::default());
    }
    let asked = asked(segment, quantiser)?;
    if segment.graph.is_none() {
        let efforts = SORTED.map(|sorted| Effort { sorted, ..Effort::default() });
        return tried(segment, quantiser, &asked, efforts);
    }
    let most = EFS[EFS.len() - 1];
    let growth = growth(segment, quantiser, &asked);
    let efs = EFS.map(|ef| Effort { ef, sorted: 1, growth });
    let sorted = SORTED.map(|sorted| Effort { ef: most, sorted, growth });
    tried(segment, quantiser, &asked, efs.into_iter().chain(sorted))
}

/// How fast the neighbours of rows get farther: so that of all of them together as many are near enough as
/// [`Effort::beam`] says for [`WIDTH`] candidates.
fn growth(segment: &Segment, quantiser: &Quantiser, asked: &[Asked]) -> Option<f32> {
    let all = Bits::all(segment.rows());
    let effort = Effort { ef: WIDTH * HARD, ..Effort::default() };
    let mut times: Vec<f32> = Vec::new();
    let mut known = 0;
    for asked in asked {
        // The first is the row itself.
        let (found, _) = segment.search(quantiser, &asked.query, (NEIGHBOURS, effort), &all);
        let Some(near) = found.get(RANK_MIN).filter(|near| near.distance > 0) else { continue };
        let far = found.iter().skip(1);
        times.extend(far.map(|far| far.distance as f32 / near.distance as f32));
        known += 1;
    }
    // Where most have more than that many neighbours at no distance nothing can be said.
    if known * 2 < asked.len() || times.len() <= known * WIDTH {
        return None;
    }
    let (_, slack, _) = times.select_nth_unstable_by(known * WIDTH, f32::total_cmp);
    let growth = slack.ln() / (WIDTH as f32 / RANK_MIN as f32).ln();
    Some(growth.clamp(0.0, GROWTH_MAX))
}

fn tried(
    segment: &Segment,
    quantiser: &Quantiser,
    asked: &[Asked],
    efforts: impl IntoIterator<Item = Effort>,
) -> Result<Effort> {
    let wanted = asked.len() * NEIGHBOURS.min(segment.rows());
    let mut best = (0.0, Effort::default());
    for effort in efforts {
        let mut found = 0;
        for asked in asked {
            found += hits(segment, quantiser, asked, effort)?;
        }
        let recall = found as f64 / wanted.max(1) as f64;
        if recall >= RECALL {
            return Ok(effort);
        }
        if recall > best.0 {
            best = (recall, effort);
        }
    }
    if best.0 >= RECALL_MIN {
        return Ok(best.1);
    }
    Err(Error::invalid(format!(
        "the neighbours of these vectors are not told apart by codes of one byte a number: {:.0} in a hundred \
         would be found",
        best.0 * 100.0
    )))
}

/// Rows all over the segment, with how far their neighbours are.
fn asked(segment: &Segment, quantiser: &Quantiser) -> Result<Vec<Asked>> {
    let (rows, dimension) = (segment.rows(), quantiser.dimension());
    let count = (NUMBERS / (rows * dimension).max(1)).clamp(QUERIES.0, QUERIES.1);
    let step = (rows / count).max(1);
    let mut scratch = Scratch::default();
    let mut queries = Vec::new();
    for row in (0..rows as u32).step_by(step).take(count) {
        let vector = segment.vector(row, dimension, &mut scratch)?;
        queries.push((quantiser.query(&vector)?, Vec::new()));
    }
    for row in 0..rows as u32 {
        let vector = segment.vector(row, dimension, &mut scratch)?;
        for (query, near) in &mut queries {
            near.push(quantiser.true_distance(query, &vector));
            if near.len() >= NEIGHBOURS * 64 {
                keep_nearest(near);
            }
        }
    }
    let asked = queries.into_iter().map(|(query, mut near)| {
        keep_nearest(&mut near);
        Asked { query, last: near.iter().copied().fold(0.0, f32::max) }
    });
    Ok(asked.collect())
}

fn keep_nearest(near: &mut Vec<f32>) {
    if near.len() > NEIGHBOURS {
        near.select_nth_unstable_by(NEIGHBOURS - 1, f32::total_cmp);
        near.truncate(NEIGHBOURS);
    }
}

/// Of the neighbours, how many are found; of rows that are as far as one another any will do.
fn hits(segment: &Segment, quantiser: &Quantiser, asked: &Asked, effort: Effort) -> Result<usize> {
    let all = Bits::all(segment.rows());
    let (mut near, _) = segment.search(quantiser, &asked.query, (NEIGHBOURS, effort), &all);
    near.truncate(effort.sorted_truly(NEIGHBOURS));
    let near = near.into_iter().map(|candidate| (candidate, segment));
    let hits = nearest(near, quantiser, &asked.query, NEIGHBOURS)?;
    Ok(hits.iter().filter(|hit| hit.distance <= asked.last).count())
}

#[cfg(test)]
mod tests {
    use lakebed_core::DistanceType;

    use super::super::graph::GraphParams;
    use super::super::row_ids::RowIds;
    use super::super::segment::Vectors;
    use super::*;

    fn segment_of(dimension: usize, vectors: Vec<f32>) -> Result<(Quantiser, Segment)> {
        let quantiser = Quantiser::learn(DistanceType::L2, dimension, &vectors)?;
        let stride = quantiser.stride();
        let rows = vectors.len() / dimension;
        let mut codes = vec![0; rows * stride];
        for (vector, code) in vectors.chunks(dimension).zip(codes.chunks_mut(stride)) {
            assert!(quantiser.encode(vector, code));
        }
        let ids = RowIds::of(0..rows as u64);
        let params = GraphParams { m: 8, ef_construction: 40 };
        let segment = Segment::build(&quantiser, ids, codes, Vectors::Memory(vectors), params);
        Ok((quantiser, segment))
    }

    fn effort_of(dimension: usize, vectors: Vec<f32>) -> Result<Effort> {
        let (quantiser, segment) = segment_of(dimension, vectors)?;
        calibrated(&segment, &quantiser)
    }

    fn drawn(numbers: usize) -> Vec<f32> {
        let mut seed = 3_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32
        };
        (0..numbers).map(|_| next()).collect()
    }

    #[test]
    fn vectors_that_codes_tell_apart_need_little_and_fewer_of_them_less() {
        let large = effort_of(16, drawn(20_000 * 16)).unwrap();
        assert!(large.ef <= 256 && large.sorted == 1, "{large:?}");
        // Of points all over 16 dimensions, squared distances are the 2/16th power of the place; at the
        // borders a little more.
        assert!((0.1..0.2).contains(&large.growth.unwrap()), "{large:?}");
        let small = effort_of(16, drawn(1_500 * 16)).unwrap();
        assert!(small.ef < large.ef && small.sorted == 1, "{small:?} beside {large:?}");
        assert!(large.is_sound() && Effort::MOST.is_sound());
        assert!(!Effort { ef: 0, ..large }.is_sound());
        assert!(!Effort { growth: Some(f32::NAN), ..large }.is_sound());
    }

    #[test]
    fn a_way_is_as_wide_as_rows_are_spread_and_wide_where_nothing_is_known() {
        let effort = Effort { ef: 160, sorted: 1, growth: Some(0.5) };
        assert_eq!(effort.beam(10), Beam { most: 480, rank: 10, slack: 4.0 });
        assert_eq!(effort.beam(40), Beam { most: 480, rank: 40, slack: 2.0 });
        assert_eq!(effort.beam(1), Beam { most: 480, rank: 10, slack: 4.0 });
        // As many again as are wanted.
        assert_eq!(effort.beam(400), Beam { most: 1_800, rank: 400, slack: 1.5_f32.sqrt() });
        assert_eq!(Effort { growth: None, ..effort }.beam(10), Beam::of(160));
        // Each row has a hundred at no distance.
        let equal: Vec<f32> = (0..3_000).flat_map(|row| [(row / 100) as f32, 1.0]).collect();
        let (quantiser, segment) = segment_of(2, equal).unwrap();
        let asked = asked(&segment, &quantiser).unwrap();
        assert_eq!(growth(&segment, &quantiser, &asked), None);
    }

    #[test]
    fn a_grid_that_is_finer_than_the_codes_needs_more_or_has_none() {
        // All share a scale of 8, so 32 rows in a line have the same code, and the 24 candidates of the least
        // effort are some of them.
        let grid: Vec<f32> = (0..64)
            .flat_map(|x| (0..64).flat_map(move |y| [x as f32 * 32.0, y as f32 * 0.25]))
            .collect();
        match effort_of(2, grid) {
            Ok(effort) => assert!(effort.sorted > 1, "{effort:?}"),
            Err(error) => assert!(error.message().contains("not told apart"), "{error}"),
        }
        let fine: Vec<f32> =
            (0..4_000).flat_map(|n| [n as f32 * 1e-4, (n % 2) as f32 * 1e6]).collect();
        assert!(effort_of(2, fine).is_err());
    }
}
