//! Folders of Lance: a data set is copied with its newest rows, blobs included.

use std::path::Path;

use futures::StreamExt as _;
use lakebed_storage::{BatchStream, ForeignDataset};
use tokio::runtime::{Builder, Runtime};

use super::{RowSource, text};

/// What tells a version of a data set apart from others, and about how many bytes it has.
pub(super) fn digest(folder: &Path) -> Result<String, String> {
    let dataset = runtime()?.block_on(ForeignDataset::open(folder)).map_err(text)?;
    Ok(dataset.digest())
}

pub(super) fn open(folder: &Path) -> Result<RowSource, String> {
    let runtime = runtime()?;
    let (schema, batches) = runtime
        .block_on(async {
            let dataset = ForeignDataset::open(folder).await?;
            Ok::<_, lakebed_core::Error>((dataset.schema(), dataset.scan().await?))
        })
        .map_err(text)?;
    Ok(RowSource { schema, batches: Box::new(Rows { batches, runtime }) })
}

/// A runtime of its own: rows are read by a thread that waits.
fn runtime() -> Result<Runtime, String> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(text)
}

struct Rows {
    batches: BatchStream,
    runtime: Runtime,
}

impl Iterator for Rows {
    type Item = Result<arrow_array::RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.batches.next()).map(|batch| batch.map_err(text))
    }
}
