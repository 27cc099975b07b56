//! Brings batches to the size they should have on the wire, 1 to 3 MiB.
//!
//! Small messages cost a frame and a header each; large ones keep their memory until the slowest client
//! has taken them, and many clients take no message above 4 MiB unless they are told to. A row is never
//! split, so one row with a large cell is a message of its own.

use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_buffer::ArrowNativeType;
use arrow_data::ArrayData;
use arrow_schema::{DataType, Schema};
use futures::StreamExt;
use lakebed_core::{Error, Result};
use lakebed_service::BatchStream;

/// Leaves a quarter of the 4 MiB that clients take by default to headers and padding.
const WIRE_BYTES_MAX: usize = 3 << 20;
const WIRE_BYTES_TARGET: usize = 2 << 20;
const WIRE_BYTES_MIN: usize = 1 << 20;
/// Batches up to this are joined to a small one before them; they are cut again for the wire.
const JOINED_BYTES_MAX: usize = 16 << 20;
/// How long small batches wait for company before they are sent as they are: a read that finds little
/// still shows that it goes on.
const GATHER_WAIT: Duration = Duration::from_millis(500);

/// Gathers small batches of a stream into larger ones.
pub(crate) struct Gathered {
    batches: BatchStream,
    /// Whether batches may be joined.
    joins: bool,
    /// What the stream gave and did not fit any more.
    next: Option<Result<RecordBatch>>,
}

impl Gathered {
    /// Gathers `batches` of `schema`. Dictionaries are left as they are: joining batches would make one
    /// of all of theirs, with values that repeat.
    pub(crate) fn new(schema: &Schema, batches: BatchStream) -> Self {
        let is_dictionary = |data_type: &DataType| matches!(data_type, DataType::Dictionary(_, _));
        let joins = !schema.flattened_fields().iter().any(|f| is_dictionary(f.data_type()));
        Gathered { batches, joins, next: None }
    }

    /// The next batch, of at least 1 MiB unless the stream ended, paused or gave a large one. May be
    /// dropped while it waits only if the stream is dropped as well.
    ///
    /// # Errors
    /// Those of the stream, after everything that came before them.
    pub(crate) async fn next(&mut self) -> Option<Result<RecordBatch>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => self.batches.next().await?,
        };
        let first = match first {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let mut bytes = wire_bytes(&first);
        if bytes >= WIRE_BYTES_MIN || !self.joins {
            return Some(Ok(first));
        }
        let mut held = vec![first];
        let patience = tokio::time::sleep(GATHER_WAIT);
        tokio::pin!(patience);
        while bytes < WIRE_BYTES_MIN {
            let following = tokio::select! {
                biased;
                following = self.batches.next() => following,
                () = &mut patience => break,
            };
            match following {
                Some(Ok(batch)) if bytes + wire_bytes(&batch) <= JOINED_BYTES_MAX => {
                    bytes += wire_bytes(&batch);
                    held.push(batch);
                }
                Some(other) => {
                    self.next = Some(other);
                    break;
                }
                None => break,
            }
        }
        Some(joined(held))
    }
}

fn joined(mut held: Vec<RecordBatch>) -> Result<RecordBatch> {
    if held.len() == 1 {
        return Ok(held.swap_remove(0));
    }
    arrow_select::concat::concat_batches(&held[0].schema(), &held).map_err(|error| {
        Error::internal("batches of a read do not fit together").with_source(error)
    })
}

/// Cuts a batch into even slices for the wire; a batch without rows is one slice.
pub(crate) fn slices(batch: &RecordBatch) -> Vec<RecordBatch> {
    let columns: Vec<ArrayData> = batch.columns().iter().map(|column| column.to_data()).collect();
    let bytes = |at: usize, rows: usize| -> usize {
        columns.iter().map(|column| range_bytes(column, at, rows)).sum()
    };
    let rows = batch.num_rows();
    let total = bytes(0, rows);
    if total <= WIRE_BYTES_MAX || rows <= 1 {
        return vec![batch.clone()];
    }
    // Even ones, so that none is a small rest.
    let even = rows.div_ceil(total.div_ceil(WIRE_BYTES_TARGET));
    let mut slices = Vec::with_capacity(rows / even + 1);
    let mut at = 0;
    while at < rows {
        let mut length = even.min(rows - at);
        while length > 1 && bytes(at, length) > WIRE_BYTES_MAX {
            length /= 2;
        }
        slices.push(batch.slice(at, length));
        at += length;
    }
    slices
}

/// The bytes that a batch takes on the wire, without headers and padding.
pub(crate) fn wire_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| range_bytes(&column.to_data(), 0, column.len())).sum()
}

/// The bytes of `length` values of `data` from `at`, looking at offsets only where the range begins
/// and ends.
fn range_bytes(data: &ArrayData, at: usize, length: usize) -> usize {
    let validity = if data.null_count() > 0 { length.div_ceil(8) } else { 0 };
    let values = match data.data_type() {
        DataType::Null => 0,
        DataType::Boolean => length.div_ceil(8),
        DataType::Utf8 | DataType::Binary => covered::<i32>(data, at, length).1 + 4 * length,
        DataType::LargeUtf8 | DataType::LargeBinary => {
            covered::<i64>(data, at, length).1 + 8 * length
        }
        DataType::List(_) | DataType::Map(_, _) => {
            let (first, values) = covered::<i32>(data, at, length);
            range_bytes(&data.child_data()[0], first, values) + 4 * length
        }
        DataType::LargeList(_) => {
            let (first, values) = covered::<i64>(data, at, length);
            range_bytes(&data.child_data()[0], first, values) + 8 * length
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap_or(0);
            let first = (data.offset() + at) * size;
            range_bytes(&data.child_data()[0], first, length * size)
        }
        DataType::Struct(_) => {
            data.child_data().iter().map(|child| range_bytes(child, at, length)).sum()
        }
        DataType::FixedSizeBinary(width) => usize::try_from(*width).unwrap_or(0) * length,
        DataType::Dictionary(key, _) => key.primitive_width().unwrap_or(8) * length,
        other => match other.primitive_width() {
            Some(width) => width * length,
            // Views and the like: their share of what the whole array holds.
            None => {
                let whole = data.get_slice_memory_size().unwrap_or(0);
                (whole as u128 * length as u128 / data.len().max(1) as u128) as usize
            }
        },
    };
    validity + values
}

/// What the offsets of a range cover: first value and how many.
fn covered<O: ArrowNativeType>(data: &ArrayData, at: usize, length: usize) -> (usize, usize) {
    if length == 0 {
        return (0, 0);
    }
    let offsets: &[O] = data.buffers()[0].typed_data();
    let first = offsets[data.offset() + at].as_usize();
    let last = offsets[data.offset() + at + length].as_usize();
    (first, last - first)
}

#[cfg(test)]
mod tests;
