//! A state in files, and back.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use lakebed_core::{DistanceType, Result};
use lakebed_storage::FragmentMark;
use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::calibrate::Effort;
use super::files::{self, VectorsWriter};
use super::quantiser::Quantiser;
use super::row_ids::RowIds;
use super::segment::{Segment, Vectors};
use super::state::{Known, Moment, Part, State};

/// What `index.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    format: u32,
    column: String,
    branch: Option<String>,
    is_requested: bool,
    distance: DistanceType,
    offsets: Vec<f32>,
    scale: f32,
    moment: Moment,
    fragments: Vec<(FragmentMark, RowIds)>,
    segments: Vec<SavedSegment>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSegment {
    name: String,
    effort: Effort,
    /// Rows that are not shown.
    masked: Vec<u32>,
}

const FORMAT: u32 = 3;

/// A state that was read from files.
pub struct Loaded {
    /// How its vectors became codes.
    pub quantiser: Quantiser,
    /// What it shows.
    pub state: State,
    /// Whether somebody asked for the index.
    pub is_requested: bool,
}

/// Writes what a state needs that is not in files yet, and then the list of its segments.
///
/// # Errors
/// `Internal` with what the file system says.
pub fn save(
    folder: &Path,
    (column, branch): (&str, Option<&str>),
    quantiser: &Quantiser,
    state: &State,
    is_requested: bool,
) -> Result<()> {
    let mut segments = Vec::new();
    for part in &state.parts {
        let segment = &part.segment;
        let name = match segment.name.get() {
            Some(name) => name.clone(),
            None => {
                let name = uuid::Uuid::now_v7().to_string();
                if let Vectors::Memory(numbers) = &segment.vectors {
                    let mut writer = VectorsWriter::create(folder, &name)?;
                    writer.add(numbers)?;
                    writer.end()?;
                }
                write(folder, &name, segment)?;
                name
            }
        };
        let rows = 0..segment.rows() as u32;
        let masked = rows.filter(|row| !part.visible.has(*row)).collect();
        segments.push(SavedSegment { name, effort: segment.effort, masked });
    }
    let names: HashSet<String> = segments.iter().map(|segment| segment.name.clone()).collect();
    let known = state.fragments.values();
    let saved = Saved {
        format: FORMAT,
        column: column.to_owned(),
        branch: branch.map(str::to_owned),
        is_requested,
        distance: quantiser.distance(),
        offsets: quantiser.offsets().to_vec(),
        scale: quantiser.scale(),
        moment: state.moment,
        fragments: known.map(|known| (known.mark, RowIds::clone(&known.ids))).collect(),
        segments,
    };
    files::write_index(folder, &saved, &names)
}

/// Writes a segment under a name that it keeps.
///
/// # Errors
/// `Internal` with what the file system says.
pub fn write(folder: &Path, name: &str, segment: &Segment) -> Result<()> {
    files::write_segment(folder, name, segment)?;
    // Another saver cannot have named it: there is one at a time.
    let _ = segment.name.set(name.to_owned());
    Ok(())
}

/// Reads what was saved of a column; nothing unless all of it is there and whole.
pub fn load(folder: &Path, column: &str, branch: Option<&str>, dimension: usize) -> Option<Loaded> {
    let saved: Saved = files::read_index(folder)?;
    let is_it = saved.format == FORMAT
        && saved.column == column
        && saved.branch.as_deref() == branch
        && saved.offsets.len() == dimension
        && saved.scale > 0.0;
    if !is_it {
        return None;
    }
    let quantiser = Quantiser::of_parts(saved.distance, saved.offsets, saved.scale);
    let mut parts = Vec::new();
    for SavedSegment { name, effort, masked } in saved.segments {
        if !effort.is_sound() {
            return None;
        }
        let segment = files::read_segment(folder, &name, quantiser.stride(), dimension)?;
        let segment = Segment { effort, ..segment };
        let mut visible = Bits::all(segment.rows());
        masked.into_iter().for_each(|row| visible.set(row, false));
        parts.push(Part { segment: Arc::new(segment), visible: Arc::new(visible) });
    }
    let known = |(mark, ids): (FragmentMark, RowIds)| {
        ids.is_sound().then(|| (mark.fragment, Known { mark, ids: Arc::new(ids) }))
    };
    let fragments = saved.fragments.into_iter().map(known).collect::<Option<BTreeMap<_, _>>>()?;
    let state = State { moment: saved.moment, fragments, parts };
    Some(Loaded { quantiser, state, is_requested: saved.is_requested })
}
