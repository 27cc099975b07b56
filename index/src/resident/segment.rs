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
use super::search::{Candidate, Codes, row_by_row, through_graph};

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
/// What comparing a row costs, against a step of a search through a graph: rows that follow one another are
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

    /// Which way is the shortest to the nearest `ef` of the rows that pass.
    fn way(&self, passing: &Bits, ef: usize) -> Way {
        let Some(graph) = &self.graph else { return Way::Exact };
        let rows = self.rows();
        if passing.count() == rows {
            return if ef >= rows { Way::Exact } else { Way::Graph };
        }
        let degree = graph.rows.neighbours.len() as f64 / rows.max(1) as f64;
        let share = passing.count() as f64 / rows.max(1) as f64;
        let steps = ef as f64 / share.max(f64::MIN_POSITIVE) * degree;
        match steps < passing.count() as f64 * STEPS_PER_ROW {
            true => Way::MaskedGraph,
            false => Way::Exact,
        }
    }

    /// Candidates for the `k` nearest rows of those that pass, by their codes, nearest first, and which way they
    /// were found.
    pub fn search(
        &self,
        quantiser: &Quantiser,
        query: &Query,
        (k, effort): (usize, Effort),
        passing: &Bits,
    ) -> (Vec<Candidate>, Way) {
        let codes = Codes { bytes: &self.codes, stride: quantiser.stride() };
        let way = self.way(passing, effort.candidates(k));
        let found = match (way, &self.graph) {
            (Way::Graph, Some(graph)) => through_graph(graph, codes, query, effort.beam(k), None),
            (Way::MaskedGraph, Some(graph)) => {
                through_graph(graph, codes, query, effort.beam(k), Some(passing))
            }
            _ => row_by_row(codes, query, effort.sorted_truly(k), passing.iter()),
        };
        (found, way)
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
