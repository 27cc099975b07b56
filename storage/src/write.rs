//! What all writes of batches share: their options, their start, their counted source, and their
//! receipt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance_file::version::{ConcreteFileVersion, LanceFileVersion};
use lance_file::writer::FileWriterOptions;

use crate::blob::BLOB_IN_TABLE_BYTES_MAX;
use crate::lake::Shared;
use crate::lance_error::StreamError;
use crate::pieces::{owned, pieces};
use crate::pins::Pin;
use crate::scan::BatchStream;
use crate::schema::Conform;
use crate::table::{Branch, Table};
use crate::write_id::{Begun, KnownWrite, Reservation, WriteRecord};

/// Rows in one data file; also the unit of a column rewrite.
const FILE_ROWS_MAX: usize = 1 << 20;
/// Bytes in one data file, blobs above lance's inline size not counted.
const FILE_BYTES_MAX: usize = 2 << 30;

/// Who sends a write and how it is told apart from others.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The client's write id.
    pub write_id: Option<String>,
    /// Mode and keys as text, kept with the write id.
    pub mode: String,
    /// Digest of the schema that was sent, kept with the write id.
    pub schema_digest: String,
}

/// What a committed write answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitReceipt {
    /// The version that made the rows visible.
    pub version: u64,
    /// Rows that were received.
    pub rows: u64,
    /// Bytes of these rows, decoded, blobs included.
    pub bytes: u64,
    /// Whether an earlier write with the same write id did this; then nothing was written now.
    pub is_repeat: bool,
}

impl CommitReceipt {
    pub(crate) fn of_known(known: KnownWrite) -> Self {
        CommitReceipt {
            version: known.version,
            rows: known.record.rows,
            bytes: known.record.bytes,
            is_repeat: true,
        }
    }
}

/// What starting a write found.
pub(crate) enum Start {
    /// The same write was done before.
    Repeat(CommitReceipt),
    /// Go on, on this branch.
    Go(Arc<Branch>, Held),
}

/// What a running write holds: its write id, and the folder that it writes into.
pub(crate) struct Held {
    _reservation: Option<Reservation>,
    _pin: Pin,
}

impl Table {
    /// Opens the branch of a write and reserves its write id, or finds the receipt of its first time.
    pub(crate) async fn start(
        &self,
        branch: Option<&str>,
        options: &WriteOptions,
    ) -> Result<Start> {
        let branch = self.branch(branch).await?;
        let pin = branch.hold().await?;
        branch.check_no_view().await?;
        let Some(write_id) = &options.write_id else {
            return Ok(Start::Go(branch, Held { _reservation: None, _pin: pin }));
        };
        let ids = branch.write_ids().await?;
        let now_ms = self.shared.clock.now_ms();
        ids.catch_up(&*branch.latest().await?, now_ms).await?;
        let begun =
            ids.begin_in_turn(write_id, &options.mode, &options.schema_digest, now_ms).await?;
        Ok(match begun {
            Begun::Known(known) => Start::Repeat(CommitReceipt::of_known(known)),
            Begun::Fresh(reservation) => {
                Start::Go(branch, Held { _reservation: Some(reservation), _pin: pin })
            }
        })
    }
}

/// Rows and bytes that passed through a source.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, batch: &RecordBatch) {
        self.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch_bytes(batch), Ordering::Relaxed);
    }

    /// The receipt of a write that `version` made visible.
    pub(crate) fn receipt(&self, version: u64) -> CommitReceipt {
        CommitReceipt { version, rows: self.rows(), bytes: self.bytes(), is_repeat: false }
    }

    pub(crate) fn record(&self, options: &WriteOptions, at_ms: i64) -> WriteRecord {
        WriteRecord {
            mode: options.mode.clone(),
            schema: options.schema_digest.clone(),
            rows: self.rows(),
            bytes: self.bytes(),
            at_ms,
        }
    }
}

/// The bytes of a batch's own rows; buffers that it shares with other batches count only once overall.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> u64 {
    let bytes = |column: &arrow_array::ArrayRef| {
        let data = arrow_array::Array::to_data(column);
        // An array that cannot say is counted by what it holds on to.
        data.get_slice_memory_size().unwrap_or_else(|_| data.get_buffer_memory_size())
    };
    batch.columns().iter().map(|column| bytes(column) as u64).sum()
}

/// Converts and counts what a client sends, as the kind of stream that lance consumes. An error of the
/// client's stream goes through it as it is; it never looks like the stream's end.
pub(crate) fn conformed(
    conform: Arc<Conform>,
    batches: BatchStream,
    counted: Arc<Counted>,
) -> SendableRecordBatchStream {
    let schema = conform.schema().clone();
    let stream = batches
        .and_then(move |batch| {
            let (conform, counted) = (conform.clone(), counted.clone());
            async move {
                let first_row = counted.rows();
                counted.add(&batch);
                conform.apply(&batch, first_row).await
            }
        })
        .map_ok(|batch| futures::stream::iter(pieces(&batch).into_iter().map(Ok)))
        .try_flatten()
        .and_then(|piece| {
            let owned = owned(&piece);
            std::future::ready(
                owned.map_err(|error| Error::internal("copy rows").with_source(error)),
            )
        })
        .map_err(|error| {
            datafusion::error::DataFusionError::External(Box::new(StreamError::new(&error)))
        });
    as_source(schema, stream.boxed())
}

/// A stream as lance consumes it.
pub(crate) fn as_source(
    schema: SchemaRef,
    stream: futures::stream::BoxStream<'static, datafusion::error::Result<RecordBatch>>,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// How every data file of the lake is written.
pub(crate) fn write_params(shared: &Shared, mode: WriteMode) -> WriteParams {
    WriteParams {
        mode,
        max_rows_per_file: FILE_ROWS_MAX,
        max_bytes_per_file: FILE_BYTES_MAX,
        store_params: Some(shared.root.data_file_params()),
        session: Some(shared.root.session().clone()),
        data_storage_version: Some(LanceFileVersion::V2_2),
        enable_stable_row_ids: true,
        enable_v2_manifest_paths: true,
        skip_auto_cleanup: true,
        file_writer_options: Some(FileWriterOptions {
            // See `pieces.rs`, which copies what must not be kept.
            keep_original_array: Some(true),
            ..Default::default()
        }),
        blob_pack_file_size_threshold: Some(64 * BLOB_IN_TABLE_BYTES_MAX as usize),
        ..Default::default()
    }
}

/// How files are written into a table that is there: in the version of its own files, so that whoever
/// reads it can go on. Only blobs need a version that one of another tool may not have.
pub(crate) fn write_params_into(
    shared: &Shared,
    dataset: &Dataset,
    mode: WriteMode,
    has_blobs: bool,
) -> WriteParams {
    use ConcreteFileVersion as V;
    let own = dataset.manifest().data_storage_format.lance_file_format();
    let fits = !has_blobs || !matches!(own, V::V1 | V::V2_0 | V::V2_1);
    let params = write_params(shared, mode);
    match fits {
        true => WriteParams { data_storage_version: None, ..params },
        false => params,
    }
}

/// Takes the first error of ours out of a write that failed, as the client should see it.
pub(crate) fn write_error(error: lance::Error) -> lakebed_core::Error {
    crate::lance_error::from_lance(error)
}

/// Deletes the files of a transaction that will not be committed, as far as that works: they are
/// invisible, and the maintenance of the table finds what stays.
pub(crate) async fn discard(
    shared: &Shared,
    base: &object_store::path::Path,
    fragments: &[lance_table::format::Fragment],
) -> Result<()> {
    use object_store::ObjectStoreExt as _;
    for file in fragments.iter().flat_map(|fragment| &fragment.files) {
        let path = object_store::path::Path::from_iter(
            base.parts()
                .chain(object_store::path::Path::from(format!("data/{}", file.path)).parts()),
        );
        if let Err(error) = shared.root.store().delete(&path).await {
            tracing::info!(%error, "a file of an abandoned write stays behind");
        }
    }
    Ok(())
}
