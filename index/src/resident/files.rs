//! Segments in files, so that a restart does not build them again.
//!
//! ```text
//!   <folder>/index.json      the version, the quantiser, and which segments of which rows are shown
//!   <folder>/<name>.segment  the row ids, the codes and the graph of one segment, and a checksum
//!   <folder>/<name>.vectors  its vectors, raw little-endian f32
//! ```
//!
//! All of it is derived: whatever is missing, cut off, of another format or fails its checksum is thrown away
//! and built again. A segment is written under another name and renamed; `index.json` is replaced last, and
//! what it does not name is deleted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::OnceLock;

use lakebed_core::Result;
use serde::{Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::Xxh3;

use super::calibrate::Effort;
use super::graph::{Graph, Layer, Lists};
use super::row_ids::RowIds;
use super::segment::{Segment, Vectors, broken};

/// Changes with whatever is written here.
const FORMAT: u64 = 0x6c61_6b65_7265_7301;
/// The file that names all others.
const INDEX: &str = "index.json";

/// Writes the vectors of a segment while they come.
pub struct VectorsWriter {
    file: BufWriter<File>,
}

impl VectorsWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// `Internal` with what the file system says.
    pub fn create(folder: &Path, name: &str) -> Result<VectorsWriter> {
        let make = || {
            fs::create_dir_all(folder)?;
            let path = folder.join(format!("{name}.vectors"));
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            Ok(VectorsWriter { file: BufWriter::with_capacity(1 << 20, file) })
        };
        make().map_err(|error| broken("write vectors", error))
    }

    /// Adds vectors.
    ///
    /// # Errors
    /// As [`VectorsWriter::create`].
    pub fn add(&mut self, numbers: &[f32]) -> Result<()> {
        let mut write = || {
            for number in numbers {
                self.file.write_all(&number.to_le_bytes())?;
            }
            Ok(())
        };
        write().map_err(|error| broken("write vectors", error))
    }

    /// Ends the file; what was written can be read.
    ///
    /// # Errors
    /// As [`VectorsWriter::create`].
    pub fn end(self) -> Result<Vectors> {
        let end = || {
            let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
            // Before anything names it.
            file.sync_all()?;
            Ok(Vectors::File(file))
        };
        end().map_err(|error| broken("write vectors", error))
    }
}

/// Writes a segment whose vectors lie in a file of the folder already.
///
/// # Errors
/// `Internal` with what the file system says.
pub fn write_segment(folder: &Path, name: &str, segment: &Segment) -> Result<()> {
    let write = || {
        let part = folder.join(format!("{name}.part"));
        let mut to = Summed {
            file: BufWriter::with_capacity(1 << 20, File::create(&part)?),
            sum: Xxh3::new(),
        };
        to.number(FORMAT)?;
        let ids = serde_json::to_vec(&segment.ids)?;
        to.bytes(&ids)?;
        to.bytes(&segment.codes)?;
        match &segment.graph {
            None => to.number(0)?,
            Some(graph) => {
                to.number(1 + graph.layers.len() as u64)?;
                to.number(u64::from(graph.entry))?;
                to.lists(&graph.rows)?;
                for layer in &graph.layers {
                    to.numbers(&layer.rows)?;
                    to.numbers(&layer.below)?;
                    to.lists(&layer.lists)?;
                }
            }
        }
        let sum = to.sum.digest();
        to.file.write_all(&sum.to_le_bytes())?;
        let file = to.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&part, folder.join(format!("{name}.segment")))
    };
    write().map_err(|error| broken("write a segment", error))
}

/// Reads a segment; nothing if it is not whole.
pub fn read_segment(folder: &Path, name: &str, stride: usize, dimension: usize) -> Option<Segment> {
    let bytes = fs::read(folder.join(format!("{name}.segment"))).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let mut hash = Xxh3::new();
    hash.update(body);
    if hash.digest().to_le_bytes() != sum {
        return None;
    }
    let mut from = Cursor { left: body };
    if from.number()? != FORMAT {
        return None;
    }
    let ids: RowIds = serde_json::from_slice(from.bytes()?).ok()?;
    let codes = from.bytes()?.to_vec();
    let graph = match from.number()? {
        0 => None,
        layers => {
            let entry = u32::try_from(from.number()?).ok()?;
            let rows = from.lists()?;
            let layer = |_| {
                Some(Layer { rows: from.numbers()?, below: from.numbers()?, lists: from.lists()? })
            };
            let layers = (1..layers).map(layer).collect::<Option<Vec<Layer>>>()?;
            Some(Graph { rows, layers, entry })
        }
    };
    let path = folder.join(format!("{name}.vectors"));
    let file = File::open(&path).ok()?;
    let numbers = file.metadata().ok()?.len() / size_of::<f32>() as u64;
    let is_sound = ids.is_sound()
        && codes.len() == ids.len() * stride
        && numbers == (ids.len() * dimension) as u64
        && graph.as_ref().is_none_or(|graph| graph.is_sound() && graph.row_count() == ids.len());
    is_sound.then(|| Segment {
        ids,
        codes,
        graph,
        vectors: Vectors::File(file),
        effort: Effort::default(),
        name: OnceLock::from(name.to_owned()),
    })
}

/// Replaces the file that names the segments, and deletes what it no longer names.
///
/// # Errors
/// `Internal` with what the file system says.
pub fn write_index<T: Serialize>(folder: &Path, index: &T, names: &HashSet<String>) -> Result<()> {
    let write = || {
        fs::create_dir_all(folder)?;
        let part = folder.join("index.part");
        let mut file = File::create(&part)?;
        file.write_all(&serde_json::to_vec(index)?)?;
        file.sync_all()?;
        fs::rename(&part, folder.join(INDEX))?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let is_named = stem.is_some_and(|stem| stem == "index" || names.contains(&stem));
            if !is_named {
                // One that is gone already is what is wanted.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    };
    write().map_err(|error| broken("write the list of segments", error))
}

/// The file that names the segments; nothing where there is none that can be read.
pub fn read_index<T: DeserializeOwned>(folder: &Path) -> Option<T> {
    let mut text = Vec::new();
    File::open(folder.join(INDEX)).ok()?.take(64 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Deletes all files of an index.
pub fn delete(folder: &Path) {
    // Derived data: what stays is thrown away by whoever finds it.
    let _ = fs::remove_file(folder.join(INDEX));
    let _ = fs::remove_dir_all(folder);
}

/// A file that sums what is written to it.
struct Summed {
    file: BufWriter<File>,
    sum: Xxh3,
}

impl Summed {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.raw(&number.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(bytes.len() as u64)?;
        self.raw(bytes)
    }

    fn numbers(&mut self, numbers: &[u32]) -> io::Result<()> {
        self.number(numbers.len() as u64 * 4)?;
        for number in numbers {
            self.raw(&number.to_le_bytes())?;
        }
        Ok(())
    }

    fn lists(&mut self, lists: &Lists) -> io::Result<()> {
        self.numbers(&lists.starts)?;
        self.numbers(&lists.neighbours)
    }
}

/// What was written, front to back.
struct Cursor<'a> {
    left: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, left) = self.left.split_first_chunk()?;
        self.left = left;
        Some(u64::from_le_bytes(*number))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, left) = self.left.split_at_checked(length)?;
        self.left = left;
        Some(bytes)
    }

    fn numbers(&mut self) -> Option<Vec<u32>> {
        let bytes = self.bytes()?;
        let number = |four: &[u8]| Some(u32::from_le_bytes(*four.first_chunk()?));
        bytes.chunks(4).map(number).collect()
    }

    fn lists(&mut self) -> Option<Lists> {
        Some(Lists { starts: self.numbers()?, neighbours: self.numbers()? })
    }
}
