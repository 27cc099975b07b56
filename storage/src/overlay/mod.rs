//! Overlays: new values of some cells, in a file beside the columns that they change.
//!
//! Only tables of the extended profile get any (`profile.rs`), because released readers of lance refuse a
//! table that has one. An update then writes the cells that it changes and nothing else; a read puts them
//! over the column's own. What many of them cost a read, folding takes away (`fold.rs`): the column is
//! written once more, for one fragment, with all that lies over it.

mod fold;

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema};
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{DataOverlayGroup, Operation};
use lance::dataset::{OverlayWriter, WriteOverlayError};
use lance_core::ROW_ADDR;
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;
use lance_table::format::overlay::{DataOverlayFile, OverlayCoverage};
use roaring::RoaringBitmap;

use crate::column_patch::{RowPlaces, ids_below};
use crate::expressions::holds_blob;
use crate::lance_error::from_lance;
use crate::profile::Profile;
use crate::snapshot::Snapshot;

pub use fold::{FoldRule, Folded};

/// Overlays of a fragment from which on a change writes the columns.
const FILES_MAX: usize = 64;

/// What lies over the columns of one fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlaidFragment {
    /// Its number.
    pub id: u32,
    /// Rows in its files, deleted ones included.
    pub rows: u64,
    /// Overlays.
    pub files: usize,
    /// Rows that they cover, counted again for each overlay.
    pub covered: u64,
}

impl OverlaidFragment {
    /// What lies over the columns `ids` of a fragment; over any without.
    fn of(fragment: &Fragment, ids: Option<&[u32]>) -> Option<OverlaidFragment> {
        let covered = fragment.overlays.iter().map(|overlay| covered(overlay, ids));
        let live: Vec<u64> = covered.filter(|covered| *covered > 0).collect();
        (!live.is_empty()).then(|| OverlaidFragment {
            id: u32::try_from(fragment.id).unwrap_or(u32::MAX),
            rows: fragment.physical_rows.unwrap_or(0) as u64,
            files: live.len(),
            covered: live.iter().sum(),
        })
    }

    /// Whether the next change has to write the columns: their cost is no more than what was written beside
    /// them since they were written the last time.
    fn is_full(&self) -> bool {
        self.files >= FILES_MAX || self.covered >= self.rows
    }
}

/// Rows for which an overlay has a value in one of the columns `ids`, or in any.
fn covered(overlay: &DataOverlayFile, ids: Option<&[u32]>) -> u64 {
    // A column that was written anew since is named by a number below zero.
    let counts = |field: &i32| {
        u32::try_from(*field).is_ok_and(|field| ids.is_none_or(|ids| ids.contains(&field)))
    };
    let mut fields = overlay.data_file.fields.iter();
    match &overlay.coverage {
        OverlayCoverage::Shared(rows) => match fields.any(counts) {
            true => rows.len(),
            false => 0,
        },
        OverlayCoverage::PerField(each) => {
            let live = fields.zip(each).filter(|(field, _)| counts(field));
            live.map(|(_, rows)| rows.len()).max().unwrap_or(0)
        }
    }
}

impl Snapshot {
    /// The fragments of the version that have overlays.
    pub fn overlaid_fragments(&self) -> Vec<OverlaidFragment> {
        self.dataset.fragments().iter().filter_map(|it| OverlaidFragment::of(it, None)).collect()
    }
}

/// Whether new cells of these columns go into overlays: not where half of the rows or more are changed, and
/// not where so much lies over the columns that they are to be written anew.
pub(crate) fn suits<'a>(
    dataset: &Dataset,
    fields: impl IntoIterator<Item = &'a Field>,
    places: &RowPlaces,
) -> bool {
    let fields: Vec<&Field> = fields.into_iter().collect();
    if Profile::of(dataset) != Profile::Extended || !fields.iter().all(|it| can_be_overlaid(it)) {
        return false;
    }
    let ids: Vec<u32> = fields.into_iter().flat_map(ids_below).collect();
    let touched = dataset
        .fragments()
        .iter()
        .filter(|fragment| u32::try_from(fragment.id).is_ok_and(|id| places.contains_key(&id)));
    let mut rows = 0_u64;
    for fragment in touched {
        if OverlaidFragment::of(fragment, Some(&ids)).is_some_and(|it| it.is_full()) {
            return false;
        }
        rows += fragment.physical_rows.unwrap_or(0) as u64;
    }
    let changed: u64 = places.values().map(RoaringBitmap::len).sum();
    changed.saturating_mul(2) < rows
}

/// What lance overlays: no blobs and no JSON, which is stored otherwise than it is sent, and no struct that
/// may be null, whose cell is more than its parts.
/// <https://github.com/lance-format/lance/issues/9077>
fn can_be_overlaid(field: &Field) -> bool {
    fn is_simple(field: &Field) -> bool {
        let is_null_struct = field.logical_type.is_struct() && field.nullable;
        let is_json =
            field.metadata.get("ARROW:extension:name").is_some_and(|name| name.ends_with(".json"));
        let is_dictionary = matches!(field.data_type(), DataType::Dictionary(..));
        !is_null_struct && !is_dictionary && !is_json && field.children.iter().all(is_simple)
    }
    !holds_blob(field) && is_simple(field)
}

/// Overlays that are written and not committed.
#[derive(Default)]
pub(crate) struct Overlaid {
    groups: Vec<DataOverlayGroup>,
    /// The new files alone, for the case that they are not committed.
    pub(crate) written: Vec<Fragment>,
}

impl Overlaid {
    pub(crate) fn add(&mut self, group: DataOverlayGroup) {
        let mut alone = Fragment::new(group.fragment_id);
        alone.files.extend(group.overlays.iter().map(|overlay| overlay.data_file.clone()));
        self.written.push(alone);
        self.groups.push(group);
    }

    pub(crate) fn into_operation(self) -> Operation {
        Operation::DataOverlay { groups: self.groups }
    }
}

/// An overlay of one fragment that is being written.
pub(crate) struct Cells {
    fragment: u32,
    writer: Option<OverlayWriter>,
}

impl Cells {
    pub(crate) async fn open(fragment: &FileFragment, columns: &Schema) -> Result<Cells> {
        let writer = Box::pin(fragment.write_overlay(columns)).await.map_err(overlay_error)?;
        Ok(Cells { fragment: fragment.id() as u32, writer: Some(writer) })
    }

    /// Writes the values of some rows, which lie behind those that came before.
    pub(crate) async fn write(&mut self, positions: &[u32], values: RecordBatch) -> Result<()> {
        let addresses = positions.iter().map(|position| address(self.fragment, *position));
        let addresses: ArrayRef = Arc::new(UInt64Array::from_iter_values(addresses));
        let mut fields = vec![Arc::new(ArrowField::new(ROW_ADDR, DataType::UInt64, false))];
        fields.extend(values.schema().fields().iter().cloned());
        let mut columns = vec![addresses];
        columns.extend(values.columns().iter().cloned());
        let batch = RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns);
        let batch = batch.map_err(|error| Error::internal("cells").with_source(error))?;
        let Some(writer) = &mut self.writer else {
            return Err(Error::internal("an overlay is written after it failed"));
        };
        match Box::pin(writer.write_batch(&batch)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.abort().await;
                Err(overlay_error(error))
            }
        }
    }

    /// What is to be committed; nothing where no row came.
    pub(crate) async fn finish(mut self) -> Result<Option<DataOverlayGroup>> {
        match self.writer.take() {
            Some(writer) => Box::pin(writer.finish()).await.map_err(overlay_error),
            None => Ok(None),
        }
    }

    /// Deletes what was written, as far as that works.
    pub(crate) async fn abort(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abort().await;
        }
    }
}

fn overlay_error(error: WriteOverlayError) -> Error {
    from_lance(error.into()).context("overlay")
}

/// The address of a row.
pub(crate) fn address(fragment: u32, position: u32) -> u64 {
    (u64::from(fragment) << 32) | u64::from(position)
}

/// The fragment of that number.
pub(crate) fn fragment_of(dataset: &Dataset, id: u32) -> Result<FileFragment> {
    dataset
        .get_fragment(id as usize)
        .ok_or_else(|| Error::internal(format!("fragment {id} is not in its version")))
}
