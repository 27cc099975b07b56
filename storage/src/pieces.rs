//! The batches of a write as lance's writer should have them: in pieces, each with memory of its own.
//!
//! Why it exists: lance makes pages of whole batches, so a batch of 200 MB would become one page, which
//! every reader of a few of its rows has to hold. And to gather a page lance copies what it is given,
//! because a small column may keep a large message alive. Here only such columns are copied; the others
//! go into their page as they came.

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::ArrowError;
use lance_arrow::deepcopy::deep_copy_array_sliced;

use crate::write::batch_bytes;

/// Bytes of a piece, unless a single row has more. A page of lance's is one to two of its caches' size,
/// which is 8 MiB a column.
const PIECE_BYTES: u64 = 4 << 20;
/// A column may keep this many times its own bytes alive.
const KEPT_RATIO_MAX: usize = 2;

/// Cuts a batch into pieces of about [`PIECE_BYTES`].
pub(crate) fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    let parts = batch_bytes(batch).div_ceil(PIECE_BYTES).clamp(1, rows.max(1) as u64);
    if parts == 1 {
        return vec![batch.clone()];
    }
    let piece_rows = rows.div_ceil(parts as usize);
    (0..rows)
        .step_by(piece_rows)
        .map(|start| batch.slice(start, piece_rows.min(rows - start)))
        .collect()
}

/// Copies the columns that keep much more alive than they show.
pub(crate) fn owned(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let own = |column: &ArrayRef| {
        let shown = column.to_data().get_slice_memory_size().unwrap_or(0);
        match column.get_buffer_memory_size() > KEPT_RATIO_MAX * shown.max(1) {
            true => deep_copy_array_sliced(column),
            false => column.clone(),
        }
    };
    let columns = batch.columns().iter().map(own).collect();
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BinaryArray, Int32Array};

    use super::*;

    fn batch(rows: usize, wide: usize) -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(0..rows as i32));
        let cell = vec![7_u8; wide];
        let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..rows).map(|_| &cell)));
        RecordBatch::try_from_iter([("id", ids), ("cell", cells)]).unwrap()
    }

    #[test]
    fn pieces_are_small_and_lose_nothing() {
        for (rows, wide) in [(0, 1), (1, 1), (1, 9 << 20), (10_000, 4_096), (1_000_000, 10)] {
            let whole = batch(rows, wide);
            let cut = pieces(&whole);
            let together = arrow_select::concat::concat_batches(&whole.schema(), &cut).unwrap();
            assert_eq!(together, whole);
            for piece in &cut {
                assert!(piece.num_rows() == 1 || batch_bytes(piece) <= PIECE_BYTES + 4_096);
            }
        }
    }

    #[test]
    fn only_columns_that_keep_too_much_are_copied() {
        let whole = batch(1_000, 100);
        let at = |batch: &RecordBatch, column: usize| {
            batch.column(column).to_data().buffers()[0].as_ptr() as usize
        };
        let same = owned(&whole).unwrap();
        assert_eq!((at(&same, 0), at(&same, 1)), (at(&whole, 0), at(&whole, 1)));
        let part = whole.slice(100, 300);
        let copied = owned(&part).unwrap();
        assert_eq!(copied, part);
        assert_ne!(at(&copied, 0), at(&part, 0));
        assert!(copied.get_array_memory_size() < part.get_array_memory_size() / 2);
    }
}
