//! Parquet files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{BATCH_BYTES, RowSource, batch_rows, text};

pub(super) fn open(path: &Path) -> Result<RowSource, String> {
    let file = File::open(path).map_err(text)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(text)?;
    let schema = Arc::clone(builder.schema());
    // Rows of pictures are large, so a batch is as many rows as the widest group says.
    let row_bytes = builder
        .metadata()
        .row_groups()
        .iter()
        .filter(|group| group.num_rows() > 0)
        .map(|group| group.total_byte_size() / group.num_rows())
        .max()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(0);
    let rows = (BATCH_BYTES / row_bytes.max(1)).clamp(1, batch_rows(schema.fields().len()));
    let batches = builder.with_batch_size(rows).build().map_err(text)?;
    Ok(RowSource { schema, batches: Box::new(batches.map(|batch| batch.map_err(text))) })
}
