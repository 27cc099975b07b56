//! A data set of Lance that lies in no lake, opened to be read once.

use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::datatypes::BlobHandling;
use sha2::{Digest as _, Sha256};

use crate::lance_error::from_lance;
use crate::scan::{BatchStream, READ_AHEAD_BYTES};
use crate::schema::client_schema;
use crate::snapshot::plain_blobs;

/// Rows that are read at a time, and where blobs come with them.
const BATCH_ROWS: usize = 8_192;
const BLOB_BATCH_ROWS: usize = 16;
const BATCH_BYTES_MAX: u64 = 16 << 20;

/// A data set at its newest version.
pub struct ForeignDataset {
    dataset: Arc<Dataset>,
    schema: SchemaRef,
}

impl ForeignDataset {
    /// Opens the data set in a local folder.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Unavailable` or `Corrupt` for one that cannot be read.
    pub fn open(folder: &Path) -> BoxFuture<'_, Result<ForeignDataset>> {
        async move {
            let folder = folder.canonicalize().map_err(|error| {
                Error::not_found(format!("{} cannot be opened: {error}", folder.display()))
            })?;
            let path =
                folder.to_str().ok_or_else(|| Error::invalid("the folder's name is not UTF-8"))?;
            let dataset = Box::pin(Dataset::open(path)).await.map_err(from_lance)?;
            let schema = plain_blobs(&client_schema(dataset.schema()));
            Ok(ForeignDataset { dataset: Arc::new(dataset), schema })
        }
        .boxed()
    }

    /// The columns as plain clients write them: a blob column takes bytes.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Tells this version apart from every other of this and of other data sets.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.dataset.version().version.to_le_bytes());
        hash.update(self.dataset.manifest().timestamp_nanos.to_le_bytes());
        for fragment in self.dataset.fragments().iter() {
            for file in fragment.referenced_lance_files() {
                hash.update(file.path.as_bytes());
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// All rows in their stored order, blobs as bytes.
    ///
    /// # Errors
    /// Those of reading; the rest come with the stream.
    pub fn scan(&self) -> BoxFuture<'_, Result<BatchStream>> {
        async move {
            let has_blobs = self.dataset.schema().fields.iter().any(|field| field.is_blob());
            let mut scanner = self.dataset.scan();
            scanner
                .batch_size(if has_blobs { BLOB_BATCH_ROWS } else { BATCH_ROWS })
                .batch_size_bytes(BATCH_BYTES_MAX)
                .blob_handling(BlobHandling::AllBinary)
                .materialization_readahead_bytes(READ_AHEAD_BYTES)
                .io_buffer_size(READ_AHEAD_BYTES)
                .batch_readahead(1)
                .fragment_readahead(1)
                .scan_in_order(true);
            let stream = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
            let schema = self.schema();
            let batches = stream.map(move |batch| {
                let batch = batch.map_err(from_lance)?;
                RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())
                    .map_err(|error| Error::internal("rows of a data set").with_source(error))
            });
            Ok(batches.boxed())
        }
        .boxed()
    }
}
