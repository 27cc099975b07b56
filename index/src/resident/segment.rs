//! A run of rows of a resident index that never changes: their codes, their graph where they are many, and
//! their vectors for the last, exact comparison.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use lakebed_core::{Error, Result};

use super::bits::Bits;
use super::calibrate::Effort;
use super::graph::{Graph, GraphParams};
use super::quantiser::{Quantiser, Query};
use super::row_ids::RowIds;
use super::search::{Candidate, Codes, Mask, past_masked, row_by_row, through_graph};

/// The vectors of a segment.
#[derive(Debug)]
pub enum Vectors {
    /// Of few rows.
    Memory(Vec<f32>),
    /// In a file, one behind the other, that the system keeps in memory as far as it has room. The file may have lost its name.
    File(File),
}

impl Vectors {
    /// Reads the vector of a row.
    fn read(&self, row: u32, into: &mut [f32], bytes: &mut Vec<u8>) -> Result<()> {
        let numbers = into.len();
        match self {
            Vectors::Memory(all) => {
                let start = row as usize * numbers;
                let vector = all.get(start..start + numbers);
                into.copy_from_slice(
                    vector.ok_or_else(|| Error::internal("a row without a vector"))?,
                );
            }
            Vectors::File(file) => {
                bytes.resize(size_of_val::<[f32]>(into), 0);
                let place = u64::from(row) * bytes.len() as u64;
                file.read_exact_at(bytes, place).map_err(|error| broken("read vectors", error))?;
                for (number, four) in into.iter_mut().zip(bytes.chunks_exact(size_of::<f32>())) {
                    *number = four.first_chunk().map_or(0.0, |four| f32::from_le_bytes(*four));
                }
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        match self {
            Vectors::Memory(all) => size_of_val(all.as_slice()),
            Vectors::File(..) => 0,
        }
    }
}

/// Rows with their codes.
#[derive(Debug)]
pub struct Segment {
    /// The ids of the rows.
    pub ids: RowIds,
    /// The codes, [`Quantiser::stride`] bytes each.
    pub codes: Vec<u8>,
    /// Absent for rows that are compared one by one.
    pub graph: Option<Graph>,
    /// The vectors.
    pub vectors: Vectors,
    /// What its searches do that ask for no number of candidates. A small graph needs few.
    pub effort: Effort,
    /// The name of its files, once it has some.
    pub name: OnceLock<String>,
}

/// How rows were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Compared one by one.
    Exact,
    /// Through the graph.
    Graph,
    /// Through the graph, past rows that did not pass.
    MaskedGraph,
}

impl Way {
    /// What answers say of it.
    pub fn name(self) -> &'static str {
        match self {
            Way::Exact => "RESIDENT_EXACT",
            Way::Graph => "RESIDENT_HNSW",
            Way::MaskedGraph => "RESIDENT_HNSW_MASKED",
        }
    }
}

/// Of so many rows a graph is built; fewer are compared as fast.
const GRAPH_ROWS_MIN: usize = 1_024;
/// What comparing a row costs, against a neighbour on the way through a graph: rows that follow one another are
/// read ahead, and nothing is sorted. Measured over 100 and 784 numbers, at shares from 1 to 50 percent.
const STEPS_PER_ROW: f64 = 0.5;

impl Segment {
    /// Builds one of rows in the order of their ids; a graph only where they are many. Rows whose vectors have
    /// no code have to be left out before.
    pub fn build(
        quantiser: &Quantiser,
        ids: RowIds,
        codes: Vec<u8>,
        vectors: Vectors,
        params: GraphParams,
    ) -> Segment {
        let graph = (ids.len() >= GRAPH_ROWS_MIN)
            .then(|| Graph::build(&codes, quantiser.stride(), quantiser.dimension(), params));
        Segment { ids, codes, graph, vectors, effort: Effort::default(), name: OnceLock::new() }
    }

    /// How many rows it has, masked ones included.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let graph = self.graph.as_ref().map_or(0, Graph::bytes);
        self.codes.capacity() + graph + self.ids.bytes() + self.vectors.bytes()
    }

    /// Steps through the graph that cost as much as comparing the rows that pass.
    fn steps_of_all(&self, graph: &Graph, passing: &Bits) -> f64 {
        let degree = graph.rows.neighbours.len() as f64 / self.rows().max(1) as f64;
        passing.count() as f64 * STEPS_PER_ROW / degree.max(1.0)
    }

    /// Candidates for the `k` nearest rows of those that pass, by their codes, nearest first, and which way they
    /// were found: whichever is the shortest.
    pub fn search(
        &self,
        quantiser: &Quantiser,
        query: &Query,
        (k, effort): (usize, Effort),
        passing: &Bits,
    ) -> (Vec<Candidate>, Way) {
        let codes = Codes { bytes: &self.codes, stride: quantiser.stride() };
        let (ef, beam) = (effort.candidates(k), effort.beam(k));
        // Of rows that the graph does not lead to from everywhere there may be some that are wanted.
        let is_enough = |found: &Vec<Candidate>| found.len() >= k.min(passing.count());
        if let Some(graph) = &self.graph {
            let share = passing.count() as f64 / self.rows().max(1) as f64;
            let steps = self.steps_of_all(graph, passing);
            if passing.count() == self.rows() && ef < self.rows() {
                let found = through_graph(graph, codes, query, beam);
                if is_enough(&found) {
                    return (found, Way::Graph);
                }
            } else if ef as f64 / share < steps {
                let mask = Mask { passing, steps: steps as usize };
                let found = past_masked(graph, codes, query, beam, mask);
                if let Some(found) = found.filter(is_enough) {
                    return (found, Way::MaskedGraph);
                }
            }
        }
        (row_by_row(codes, query, effort.sorted_truly(k), passing.iter()), Way::Exact)
    }

    /// The true distance of a row.
    pub fn true_distance(
        &self,
        quantiser: &Quantiser,
        query: &Query,
        row: u32,
        scratch: &mut Scratch,
    ) -> Result<f32> {
        scratch.vector.resize(quantiser.dimension(), 0.0);
        self.vectors.read(row, &mut scratch.vector, &mut scratch.bytes)?;
        Ok(quantiser.true_distance(query, &scratch.vector))
    }

    /// The vector of a row.
    pub fn vector(&self, row: u32, dimension: usize, scratch: &mut Scratch) -> Result<Vec<f32>> {
        scratch.vector.resize(dimension, 0.0);
        self.vectors.read(row, &mut scratch.vector, &mut scratch.bytes)?;
        Ok(scratch.vector.clone())
    }
}

/// Room for one vector, kept from one read to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    vector: Vec<f32>,
    bytes: Vec<u8>,
}

/// What went wrong with a file of a resident index.
pub(super) fn broken(what: &'static str, error: io::Error) -> Error {
    Error::internal(format!("{what} of a resident index")).with_source(error)
}

#[cfg(test)]
mod tests {
    use lakebed_core::DistanceType;

    use super::*;

    /// Rows all over a square, in an order in which those next to one another are not.
    fn square() -> (Quantiser, Segment) {
        let numbers: Vec<f32> = (0..6_000_u64)
            .flat_map(|row| [row * 7_919 % 6_007, row * 104_729 % 6_011])
            .map(|number| number as f32)
            .collect();
        let quantiser = Quantiser::learn(DistanceType::L2, 2, &numbers).unwrap();
        let mut codes = vec![0; 6_000 * quantiser.stride()];
        for (vector, code) in numbers.chunks(2).zip(codes.chunks_mut(quantiser.stride())) {
            assert!(quantiser.encode(vector, code));
        }
        let ids = RowIds::of(0..6_000);
        let params = GraphParams { m: 8, ef_construction: 40 };
        let segment = Segment::build(&quantiser, ids, codes, Vectors::Memory(numbers), params);
        (quantiser, segment)
    }

    #[test]
    fn what_passes_is_found_near_the_query_and_far_from_it() {
        let (quantiser, segment) = square();
        let Vectors::Memory(numbers) = &segment.vectors else { panic!("in a file") };
        // The half of the square on one side.
        let mut passing = Bits::none(6_000);
        for (row, place) in numbers.chunks(2).enumerate() {
            passing.set(row as u32, place[0] < 3_000.0);
        }
        for growth in [None, Some(1.0)] {
            let effort = Effort { ef: 24, growth, ..Effort::default() };
            let mut ways = Vec::new();
            // In the midst of it, at its edge, just outside and far away.
            for x in [1_500.0, 2_990.0, 3_200.0, 5_900.0] {
                let query = quantiser.query(&[x, 3_000.0]).unwrap();
                let (found, way) = segment.search(&quantiser, &query, (10, effort), &passing);
                let codes = Codes { bytes: &segment.codes, stride: quantiser.stride() };
                let all = row_by_row(codes, &query, 10, passing.iter());
                let distances = |found: &[Candidate]| -> Vec<u32> {
                    found.iter().take(10).map(|one| one.distance).collect()
                };
                assert_eq!(distances(&found), distances(&all), "{x} {way:?} {growth:?}");
                ways.push(way);
            }
            assert_eq!(ways[0], Way::MaskedGraph, "{growth:?}");
            assert_eq!(ways[3], Way::Exact, "{growth:?}");
        }
    }
}
