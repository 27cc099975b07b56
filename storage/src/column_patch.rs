//! How a column file takes the place of older ones in a fragment: what an update and a fill share.
//!
//! One new file holds the columns for all rows of the fragment, deleted ones included. The older files
//! keep their other columns; one that has none left goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, make_array};
use arrow_data::transform::MutableArrayData;
use arrow_select::interleave::interleave;
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{Operation, UpdateMode, UpdatedFragmentOffsets};
use lance_core::ROW_ADDR;
use lance_core::datatypes::Field;
use lance_table::format::{DataFile, Fragment};
use roaring::RoaringBitmap;

use crate::lance_error::from_lance;

/// What lance calls a column that a newer file of its fragment answers for.
const RETIRED: i32 = -2;

/// Where rows lie: for each fragment the physical positions in it.
pub type RowPlaces = BTreeMap<u32, RoaringBitmap>;

/// Where the rows lie for which `predicate` is true, in `fragments` where given.
pub(crate) async fn matching_rows(
    dataset: &Dataset,
    predicate: Option<&str>,
    fragments: Option<&[u32]>,
) -> Result<RowPlaces> {
    let mut scanner = dataset.scan();
    if let Some(wanted) = fragments {
        let of_them = |fragment: &&Fragment| wanted.contains(&(fragment.id as u32));
        let fragments: Vec<Fragment> =
            dataset.fragments().iter().filter(of_them).cloned().collect();
        if fragments.is_empty() {
            return Ok(RowPlaces::new());
        }
        scanner.with_fragments(fragments);
    }
    scanner.project(&[ROW_ADDR]).map_err(from_lance)?;
    if let Some(predicate) = predicate {
        scanner.filter(predicate).map_err(bad_filter)?;
    }
    let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(bad_filter)?;
    let mut matched = RowPlaces::new();
    while let Some(batch) = batches.try_next().await.map_err(bad_filter)? {
        let addresses = batch
            .column_by_name(ROW_ADDR)
            .and_then(|column| column.as_primitive_opt::<UInt64Type>())
            .ok_or_else(|| Error::internal("a scan gave no row addresses"))?;
        for address in addresses.values() {
            let (fragment, position) = ((address >> 32) as u32, *address as u32);
            matched.entry(fragment).or_default().insert(position);
        }
    }
    Ok(matched)
}

pub(crate) fn bad_filter(error: lance::Error) -> Error {
    match from_lance(error) {
        error if error.kind() == ErrorKind::InvalidArgument => error.context("filter"),
        error => error,
    }
}

/// The ids of a field and of everything below it: what an index may be on, and what files name.
pub(crate) fn ids_below(field: &Field) -> Vec<u32> {
    fn collect(field: &Field, ids: &mut Vec<u32>) {
        ids.extend(u32::try_from(field.id));
        field.children.iter().for_each(|child| collect(child, ids));
    }
    let mut ids = Vec::new();
    collect(field, &mut ids);
    ids
}

/// A fragment whose columns in `file` come from there.
pub(crate) fn with_file(mut fragment: Fragment, file: DataFile) -> Fragment {
    for old in &mut fragment.files {
        let fields = old.fields.iter().map(|field| match file.fields.contains(field) {
            true => RETIRED,
            false => *field,
        });
        old.fields = fields.collect::<Vec<i32>>().into();
    }
    fragment.files.retain(|old| old.fields.iter().any(|field| *field != RETIRED));
    fragment.files.push(file);
    fragment
}

/// A new file of a fragment by itself, for the case that it is not committed.
pub(crate) fn alone(fragment: &FileFragment, file: &DataFile) -> Fragment {
    let mut written = Fragment::new(fragment.id() as u64);
    written.files.push(file.clone());
    written
}

/// Columns of fragments that were written again, and not committed yet.
#[derive(Default)]
pub(crate) struct Patched {
    /// The fragments with their new files.
    pub(crate) fragments: Vec<Fragment>,
    /// The new files alone, for the case that they are not committed.
    pub(crate) written: Vec<Fragment>,
    /// The rows that were changed.
    pub(crate) positions: HashMap<u64, RoaringBitmap>,
    /// The columns, with everything below them.
    pub(crate) fields: Vec<u32>,
}

impl Patched {
    pub(crate) fn add(&mut self, fragment: Fragment, written: Fragment, positions: RoaringBitmap) {
        self.positions.insert(fragment.id, positions);
        self.fragments.push(fragment);
        self.written.push(written);
    }

    pub(crate) fn into_operation(self) -> Operation {
        Operation::Update {
            removed_fragment_ids: Vec::new(),
            updated_fragments: self.fragments,
            new_fragments: Vec::new(),
            // Indexes on these columns no longer answer for these fragments.
            fields_modified: self.fields,
            compacted_sstables: Vec::new(),
            fields_for_preserving_frag_bitmap: Vec::new(),
            update_mode: Some(UpdateMode::RewriteColumns),
            inserted_rows_filter: None,
            // So that only the rows that were changed count as changed in this version.
            updated_fragment_offsets: Some(UpdatedFragmentOffsets(self.positions)),
        }
    }
}

/// Which of `rows` rows are selected, the first one being row 0.
pub(crate) fn mask(rows: usize, selected: impl Iterator<Item = u32>) -> BooleanArray {
    let mut mask = BooleanBufferBuilder::new(rows);
    mask.append_n(rows, false);
    for row in selected.map(|row| row as usize).filter(|row| *row < rows) {
        mask.set_bit(row, true);
    }
    BooleanArray::new(mask.finish(), None)
}

/// Which of `rows` rows, the first of which is at position `first` of its fragment, are at these positions.
pub(crate) fn mask_of(positions: &RoaringBitmap, first: u64, rows: usize) -> BooleanArray {
    let last =
        (first + rows as u64).checked_sub(1).map(|last| last.min(u64::from(u32::MAX)) as u32);
    match (u32::try_from(first), last) {
        (Ok(first), Some(last)) if first <= last => {
            mask(rows, positions.range(first..=last).map(|position| position - first))
        }
        _ => mask(rows, std::iter::empty()),
    }
}

/// `old` with `new` in the rows that `mask` selects, one after the other.
pub(crate) fn place(
    old: &ArrayRef,
    new: &ArrayRef,
    mask: &BooleanArray,
    field: &Field,
) -> Result<ArrayRef> {
    if new.len() == old.len() {
        return Ok(Arc::clone(new));
    }
    if old.data_type().is_primitive() && old.data_type() == new.data_type() {
        return place_numbers(old, new, mask);
    }
    let mut next = 0;
    let from: Vec<(usize, usize)> = (0..old.len())
        .map(|row| match mask.value(row) {
            true => {
                next += 1;
                (1, next - 1)
            }
            false => (0, row),
        })
        .collect();
    interleave(&[old.as_ref(), new.as_ref()], &from).map_err(|error| {
        Error::internal(format!("place the values of column `{}`", field.name)).with_source(error)
    })
}

/// The same by copying what lies between the new values, which is far less work where these are few.
///
/// # Errors
/// `Internal` when there are not as many new values as places for them.
fn place_numbers(old: &ArrayRef, new: &ArrayRef, mask: &BooleanArray) -> Result<ArrayRef> {
    if mask.true_count() != new.len() || mask.len() != old.len() {
        return Err(Error::internal("the new values of a column are not as many as their places"));
    }
    let (old, new) = (old.to_data(), new.to_data());
    let mut placed = MutableArrayData::new(vec![&old, &new], false, old.len());
    let (mut copied, mut next) = (0, 0);
    for (start, end) in mask.values().set_slices() {
        placed.extend(0, copied, start);
        placed.extend(1, next, next + end - start);
        next += end - start;
        copied = end;
    }
    placed.extend(0, copied, old.len());
    Ok(make_array(placed.freeze()))
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int32Array, StringArray};
    use arrow_schema::Field as ArrowField;

    use super::*;

    #[test]
    fn new_values_go_where_the_mask_says() {
        let mask = BooleanArray::from(vec![false, true, false, true]);
        let place = |old: ArrayRef, new: ArrayRef| {
            let field = ArrowField::new("n", old.data_type().clone(), true);
            place(&old, &new, &mask, &Field::try_from(&field).unwrap()).unwrap()
        };
        let old = Int32Array::from(vec![Some(1), Some(2), None, Some(4)]);
        let placed = place(Arc::new(old), Arc::new(Int32Array::from(vec![Some(20), None])));
        assert_eq!(placed.as_ref(), &Int32Array::from(vec![Some(1), Some(20), None, None]));
        let old = StringArray::from(vec!["a", "b", "c", "d"]);
        let placed = place(Arc::new(old), Arc::new(StringArray::from(vec!["B", "D"])));
        assert_eq!(placed.as_ref(), &StringArray::from(vec!["a", "B", "c", "D"]));
        let ends = BooleanArray::from(vec![true, true, false, true]);
        let (old, new) = ([1, 2, 3, 4].to_vec(), [10, 20, 40].to_vec());
        let (old, new): (ArrayRef, ArrayRef) =
            (Arc::new(Int32Array::from(old)), Arc::new(Int32Array::from(new)));
        assert!(place_numbers(&old, &new.slice(0, 2), &ends).is_err(), "a value is missing");
        let placed = place_numbers(&old, &new, &ends).unwrap();
        assert_eq!(placed.as_ref(), &Int32Array::from(vec![10, 20, 3, 40]));
    }

    #[test]
    fn positions_are_those_of_the_batch() {
        let positions = RoaringBitmap::from([0, 7, 8, 9, 12, u32::MAX]);
        let selected = |first, rows| -> Vec<bool> {
            mask_of(&positions, first, rows).iter().map(Option::unwrap_or_default).collect()
        };
        assert_eq!(selected(7, 4), [true, true, true, false]);
        assert_eq!(selected(u64::from(u32::MAX) - 1, 3), [false, true, false]);
        assert_eq!(selected(1 << 32, 2), [false, false]);
        assert!(selected(0, 0).is_empty());
    }
}
