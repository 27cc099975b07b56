//! The index without a table, for a benchmark beside libraries that have none: the same codes, graph, choice
//! of ways and last comparison as in a server.

use std::sync::Arc;
use std::time::Instant;

use lakebed_core::{DistanceType, Error, Result};
use roaring::RoaringTreemap;

use super::build::Builders;
use super::calibrate::calibrated;
use super::files::VectorsWriter;
use super::graph::GraphParams;
use super::quantiser::Quantiser;
use super::row_ids::RowIds;
use super::segment::{Segment, Way};
use super::state::{Part, Passing, State};

/// An index of vectors whose ids are their places.
pub struct Bench {
    quantiser: Arc<Quantiser>,
    state: State,
    folder: std::path::PathBuf,
}

/// What a run of searches found.
pub struct Found {
    /// `k` ids a query; `u64::MAX` where there are fewer.
    pub ids: Vec<u64>,
    /// Queries.
    pub queries: usize,
    /// Seconds for all.
    pub seconds: f64,
    /// How they were found.
    pub way: &'static str,
    /// Half of the queries took so many microseconds or fewer.
    pub p50_us: f64,
    /// And 99 in a hundred.
    pub p99_us: f64,
}

impl Bench {
    /// Builds it with `m`, `ef_construction` and so many threads. The vectors go to a file, as in a server.
    ///
    /// # Errors
    /// `InvalidArgument` for a distance or a width that it does not have, and for vectors that codes of a byte
    /// do not tell apart; `Internal` when their file cannot be written or read.
    pub fn build(
        distance: DistanceType,
        dimension: usize,
        vectors: Vec<f32>,
        (m, ef_construction, threads): (usize, usize, usize),
    ) -> Result<Bench> {
        let quantiser = Quantiser::learn(distance, dimension, &vectors)?;
        let stride = quantiser.stride();
        let rows = vectors.len() / dimension;
        let mut codes = vec![0; rows * stride];
        for (vector, code) in vectors.chunks_exact(dimension).zip(codes.chunks_exact_mut(stride)) {
            if !quantiser.encode(vector, code) {
                return Err(Error::invalid("a vector without a code"));
            }
        }
        let folder =
            std::env::temp_dir().join(format!("lakebed-resident-{}", uuid::Uuid::now_v7()));
        let mut writer = VectorsWriter::create(&folder, "bench")?;
        writer.add(&vectors)?;
        drop(vectors);
        let vectors = writer.end()?;
        let quantiser = Arc::new(quantiser);
        let builders = Arc::new(Builders::start(threads)?);
        let own = Arc::clone(&quantiser);
        let params = GraphParams { m, ef_construction };
        let segment = builders.run_blocking(move || {
            let ids = RowIds::of(0..rows as u64);
            let mut segment = Segment::build(&own, ids, codes, vectors, params);
            segment.effort = calibrated(&segment, &own)?;
            Ok(segment)
        })?;
        let state = State { parts: vec![Part::whole(segment)], ..State::default() };
        Ok(Bench { quantiser, state, folder })
    }

    /// Its rows.
    pub fn rows(&self) -> usize {
        self.state.rows()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Searches, on so many threads, each of which takes the next query.
    ///
    /// # Errors
    /// `InvalidArgument` for vectors that do not fit.
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        ef: usize,
        threads: usize,
        mask: Option<&RoaringTreemap>,
    ) -> Result<Found> {
        let passing: Option<Passing> = mask.map(|mask| self.state.passing(mask));
        let vectors: Vec<&[f32]> = queries.chunks_exact(self.quantiser.dimension()).collect();
        let share = vectors.len().div_ceil(threads.max(1)).max(1);
        let began = Instant::now();
        let parts: Vec<Result<Vec<One>>> = std::thread::scope(|scope| {
            let run = |own: &'_ [&[f32]]| -> Result<Vec<One>> {
                own.iter().map(|vector| self.one(vector, k, ef, passing.as_ref())).collect()
            };
            if threads <= 1 {
                return vec![run(&vectors)];
            }
            let running: Vec<_> =
                vectors.chunks(share).map(|own| scope.spawn(move || run(own))).collect();
            let broken = |_| Err(Error::internal("a thread broke off"));
            running.into_iter().map(|thread| thread.join().unwrap_or_else(broken)).collect()
        });
        let seconds = began.elapsed().as_secs_f64();
        let (mut ids, mut micros, mut way) = (Vec::new(), Vec::new(), Way::Exact);
        for part in parts {
            for one in part? {
                ids.extend(one.ids);
                micros.push(one.micros);
                way = one.way;
            }
        }
        micros.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (micros.len() as f64 * share) as usize;
            micros.get(place.min(micros.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        let way = match way {
            Way::Exact => "exact",
            Way::Graph => "graph",
            Way::MaskedGraph => "masked graph",
        };
        let (p50_us, p99_us) = (at(0.5), at(0.99));
        Ok(Found { ids, queries: vectors.len(), seconds, way, p50_us, p99_us })
    }

    fn one(&self, vector: &[f32], k: usize, ef: usize, passing: Option<&Passing>) -> Result<One> {
        let began = Instant::now();
        let query = self.quantiser.query(vector)?;
        let answer = self.state.search(&self.quantiser, &query, k, Some(ef), passing)?;
        let mut ids: Vec<u64> = answer.hits.iter().map(|hit| hit.row_id).collect();
        ids.resize(k, u64::MAX);
        Ok(One { ids, micros: began.elapsed().as_secs_f64() * 1e6, way: answer.way })
    }
}

struct One {
    ids: Vec<u64>,
    micros: f64,
    way: Way,
}

impl Drop for Bench {
    fn drop(&mut self) {
        super::files::delete(&self.folder);
    }
}
