//! A write's rows, held aside until they are all there.
//!
//! An upsert is built under the table's mutation lock; taking rows straight from a client would let one
//! slow client hold that lock. A few megabytes stay in memory, more go to a file without a name that
//! vanishes with its handle, also when the server dies.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use lakebed_core::{Error, Result};
use tokio_stream::wrappers::ReceiverStream;

use crate::lance_error::from_io;
use crate::write::{as_source, batch_bytes};

const MEMORY_BYTES_MAX: usize = 16 << 20;

/// Rows that were held aside.
pub(crate) struct Spool {
    schema: SchemaRef,
    in_memory: Vec<RecordBatch>,
    file: Option<Arc<File>>,
}

/// Takes rows in.
pub(crate) struct SpoolWriter {
    schema: SchemaRef,
    folder: PathBuf,
    in_memory: Vec<RecordBatch>,
    bytes: usize,
    file: Option<StreamWriter<BufWriter<File>>>,
}

impl SpoolWriter {
    pub(crate) fn new(schema: SchemaRef, folder: PathBuf) -> Self {
        SpoolWriter { schema, folder, in_memory: Vec::new(), bytes: 0, file: None }
    }

    pub(crate) async fn push(mut self, batch: RecordBatch) -> Result<Self> {
        if self.file.is_none() {
            self.bytes += usize::try_from(batch_bytes(&batch)).unwrap_or(usize::MAX);
            if self.bytes <= MEMORY_BYTES_MAX {
                self.in_memory.push(batch);
                return Ok(self);
            }
        }
        tokio::task::spawn_blocking(move || {
            let mut writer = match self.file.take() {
                Some(writer) => writer,
                None => {
                    let file = tempfile::tempfile_in(&self.folder)
                        .map_err(|error| from_io(error, "make a spool file"))?;
                    StreamWriter::try_new(BufWriter::new(file), &self.schema)
                        .map_err(spool_error)?
                }
            };
            for held in self.in_memory.drain(..) {
                writer.write(&held).map_err(spool_error)?;
            }
            writer.write(&batch).map_err(spool_error)?;
            self.file = Some(writer);
            Ok(self)
        })
        .await
        .map_err(|error| Error::internal("the spool task failed").with_source(error))?
    }

    pub(crate) async fn finish(self) -> Result<Spool> {
        let SpoolWriter { schema, in_memory, file, .. } = self;
        let file = match file {
            None => None,
            Some(mut writer) => {
                writer.finish().map_err(spool_error)?;
                let file = writer
                    .into_inner()
                    .map_err(spool_error)?
                    .into_inner()
                    .map_err(|error| from_io(error.into_error(), "write of a spool file"))?;
                Some(Arc::new(file))
            }
        };
        Ok(Spool { schema, in_memory, file })
    }
}

impl Spool {
    /// Rows that are in memory already.
    pub(crate) fn of(batch: RecordBatch) -> Self {
        Spool { schema: batch.schema(), in_memory: vec![batch], file: None }
    }

    /// The rows, where they are all in memory.
    pub(crate) fn in_memory(&self) -> Option<&[RecordBatch]> {
        self.file.is_none().then_some(self.in_memory.as_slice())
    }

    /// The rows as a stream, as often as wanted, one reader at a time.
    pub(crate) fn source(&self) -> SendableRecordBatchStream {
        let Some(file) = self.file.clone() else {
            let batches: Vec<_> = self.in_memory.iter().cloned().map(Ok).collect();
            return as_source(self.schema.clone(), futures::stream::iter(batches).boxed());
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let read = || -> std::result::Result<(), DataFusionError> {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                for batch in StreamReader::try_new(BufReader::new(file), None)? {
                    if sender.blocking_send(Ok(batch?)).is_err() {
                        return Ok(()); // nobody reads any more
                    }
                }
                Ok(())
            };
            if let Err(error) = read() {
                // The reader being gone means that the error is not wanted.
                let _ = sender.blocking_send(Err(error));
            }
        });
        as_source(self.schema.clone(), ReceiverStream::new(receiver).boxed())
    }
}

fn spool_error(error: arrow_schema::ArrowError) -> Error {
    match error {
        arrow_schema::ArrowError::IoError(_, error) => from_io(error, "write of a spool file"),
        error => Error::internal("write of a spool file").with_source(error),
    }
}
