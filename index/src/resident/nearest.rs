//! The last comparison of a search: the nearest codes by their true vectors.

use lakebed_core::Result;

use super::quantiser::{Quantiser, Query};
use super::search::Candidate;
use super::segment::{Scratch, Segment};

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The stable row id.
    pub row_id: u64,
    /// The true distance.
    pub distance: f32,
}

/// The `k` nearest of candidates that come nearest code first, nearest first. Vectors are read of the first
/// `k`, and of those behind them as far as codes can be wrong.
///
/// # Errors
/// `Internal` when the vectors cannot be read.
pub fn nearest<'a>(
    candidates: impl IntoIterator<Item = (Candidate, &'a Segment)>,
    quantiser: &Quantiser,
    query: &Query,
    k: usize,
) -> Result<Vec<Hit>> {
    let mut scratch = Scratch::default();
    let mut hits: Vec<Hit> = Vec::new();
    let mut reach = u32::MAX;
    for (Candidate { row, distance }, segment) in candidates {
        if hits.len() == k {
            let farthest = hits.iter().map(|hit| hit.distance).fold(0.0, f32::max);
            reach = quantiser.reach(farthest);
        }
        if distance > reach {
            break;
        }
        let distance = segment.true_distance(quantiser, query, row, &mut scratch)?;
        hits.push(Hit { row_id: segment.ids.id_of(row), distance });
    }
    hits.sort_by(|one, other| {
        one.distance.total_cmp(&other.distance).then(one.row_id.cmp(&other.row_id))
    });
    hits.truncate(k);
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use lakebed_core::DistanceType;

    use super::super::graph::GraphParams;
    use super::super::row_ids::RowIds;
    use super::super::segment::Vectors;
    use super::*;

    /// Rows at these places; their ids are ten times their numbers.
    fn rows_at(places: &[[f32; 2]], distance: DistanceType) -> (Quantiser, Segment) {
        let (rows, numbers) = (places.len(), places.concat());
        let quantiser = Quantiser::learn(distance, 2, &numbers).unwrap();
        let mut codes = vec![0; rows * quantiser.stride()];
        for (vector, code) in numbers.chunks(2).zip(codes.chunks_mut(quantiser.stride())) {
            assert!(quantiser.encode(vector, code));
        }
        let ids = RowIds::of((0..rows as u64).map(|row| row * 10));
        let params = GraphParams { m: 8, ef_construction: 40 };
        let segment = Segment::build(&quantiser, ids, codes, Vectors::Memory(numbers), params);
        (quantiser, segment)
    }

    fn candidates(quantiser: &Quantiser, segment: &Segment, query: &Query) -> Vec<Candidate> {
        let stride = quantiser.stride();
        let rows = segment.codes.chunks(stride).enumerate();
        let mut all: Vec<Candidate> = rows
            .map(|(row, code)| Candidate { distance: query.distance(code), row: row as u32 })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn rows_whose_codes_are_the_same_are_told_apart() {
        // Four rows to a code.
        let places: Vec<[f32; 2]> = (0..1_020).map(|row| [row as f32, 1.0]).collect();
        let (quantiser, segment) = rows_at(&places, DistanceType::L2);
        for wanted in [0.0, 17.0, 511.2, 1_019.0] {
            let query = quantiser.query(&[wanted, 1.0]).unwrap();
            let all = candidates(&quantiser, &segment, &query);
            let all = all.into_iter().map(|candidate| (candidate, &segment));
            let hits = nearest(all, &quantiser, &query, 1).unwrap();
            let best = (wanted.round() as u64) * 10;
            assert_eq!(hits.iter().map(|hit| hit.row_id).collect::<Vec<_>>(), [best]);
            assert!((hits[0].distance - (wanted - wanted.round()).powi(2)).abs() < 1e-3);
        }
    }

    #[test]
    fn what_codes_put_far_behind_is_not_read() {
        let line = (0..250).map(|row| [row as f32, 1.0]).collect::<Vec<_>>();
        let angle = |row: u16| (f32::from(row) * 0.006).sin_cos();
        let fan = (0..250).map(|row| angle(row).into()).collect::<Vec<_>>();
        for (places, distance) in [(line, DistanceType::L2), (fan, DistanceType::Cosine)] {
            let (quantiser, segment) = rows_at(&places, distance);
            let query = quantiser.query(&places[100]).unwrap();
            let all = candidates(&quantiser, &segment, &query);
            let mut asked = 0;
            let counted = all.into_iter().map(|candidate| {
                asked += 1;
                (candidate, &segment)
            });
            let hits = nearest(counted, &quantiser, &query, 3).unwrap();
            let mut ids: Vec<u64> = hits.iter().map(|hit| hit.row_id).collect();
            assert_eq!(ids[0], 1_000);
            ids.sort_unstable();
            assert_eq!(ids, [990, 1_000, 1_010]);
            assert!((8..20).contains(&asked), "{asked} were looked at");
        }
    }
}
