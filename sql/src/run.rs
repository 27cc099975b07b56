//! The rows of a running query, within the limits of time and size.
//!
//! What always holds: the stream ends plainly only if the query itself ended; dropping it stops every
//! task of the query and lets go of the versions that it read.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lakebed_storage::{Snapshot, without_folders};
use tokio::time::Instant;

use crate::BatchStream;
use crate::error::from_datafusion;

/// The rows of a plan that runs.
pub(crate) struct Run {
    pub(crate) stream: SendableRecordBatchStream,
    pub(crate) schema: SchemaRef,
    /// Whether the rows are those of EXPLAIN.
    pub(crate) is_explained: bool,
    /// The session has the statement's memory and folder; the snapshots are the pins.
    pub(crate) _held: (SessionState, Vec<Snapshot>),
}

impl Run {
    pub(crate) fn into_stream(self) -> BatchStream {
        futures::stream::unfold(Some(self), |state| async move {
            let mut run = state?;
            match run.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(run))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .fuse()
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(batch) = self.stream.next().await {
            let batch = batch.map_err(from_datafusion)?;
            // Empty batches say nothing.
            if batch.num_rows() > 0 {
                return self.shown(batch).map(Some);
            }
        }
        Ok(None)
    }

    /// The batch under the announced schema: plans may lose metadata on their way.
    fn shown(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = match self.is_explained {
            true => batch.columns().iter().map(without_places).collect(),
            false => batch.columns().to_vec(),
        };
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|error| {
            Error::internal("the query answered with other columns than it was planned with")
                .with_source(error)
        })
    }
}

/// The text of plans without the folders that lead to tables.
fn without_places(column: &ArrayRef) -> ArrayRef {
    match column.as_string_opt::<i32>() {
        Some(texts) => {
            // Columns that the engine made up begin with what no terminal shows.
            let shown = |text: &str| without_folders(text).replace('\u{1}', "#");
            let texts = texts.iter().map(|text| text.map(shown));
            Arc::new(StringArray::from_iter(texts))
        }
        None => Arc::clone(column),
    }
}

/// The batches of an answer until `deadline`, and no more bytes of them than the limit allows.
pub(crate) fn bounded(batches: BatchStream, deadline: Instant, limits: Limits) -> BatchStream {
    let answer = Answer { batches, deadline, limits, bytes: 0 };
    futures::stream::unfold(Some(answer), |state| async move {
        let mut answer = state?;
        match answer.next().await {
            Ok(Some(batch)) => Some((Ok(batch), Some(answer))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .fuse()
    .boxed()
}

struct Answer {
    batches: BatchStream,
    deadline: Instant,
    limits: Limits,
    bytes: u64,
}

impl Answer {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let next = until(self.deadline, &self.limits, self.batches.next()).await?;
        let Some(batch) = next.transpose()? else { return Ok(None) };
        let bytes: usize = batch
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0))
            .sum();
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let bytes_max = self.limits.sql_result_bytes_max;
        if self.bytes > bytes_max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the result is larger than the limit sql_result_bytes_max, which is {bytes_max} \
                     bytes"
                ),
            ));
        }
        Ok(Some(batch))
    }
}

/// When a statement that begins now has to be over.
pub(crate) fn deadline(limits: &Limits) -> Instant {
    Instant::now() + Duration::from_millis(limits.sql_time_ms_max)
}

/// Waits for `work` no longer than the statement may run.
pub(crate) async fn until<T>(
    deadline: Instant,
    limits: &Limits,
    work: impl Future<Output = T>,
) -> Result<T> {
    tokio::time::timeout_at(deadline, work).await.map_err(|_| {
        Error::new(
            ErrorKind::DeadlineExceeded,
            format!(
                "the statement ran for {} ms, which is the limit sql_time_ms_max",
                limits.sql_time_ms_max
            ),
        )
    })
}
