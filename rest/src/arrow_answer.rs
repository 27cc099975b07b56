//! Batches as an Arrow file or an Arrow stream, written while they come.
//!
//! The framing of a file is the one that every generation of the SDKs reads: a head, the messages of a
//! stream, and a foot that says where each lies. None of it needs the whole.
//!
//! What always holds: an error after the head breaks the connection. The foot, or the end marker of a
//! stream, is written only after the last batch, so an answer that is cut cannot be taken for a whole
//! one.

use arrow_array::RecordBatch;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use lakebed_core::{Error, Result};
use lakebed_service::BatchStream;

/// The media type of an Arrow file.
pub(crate) const ARROW_FILE: &str = "application/vnd.apache.arrow.file";

/// The bytes of a file with `first` and then the rest of `batches`.
///
/// # Errors
/// `Internal` when the schema cannot be written.
pub(crate) fn arrow_file(
    schema: SchemaRef,
    first: Option<RecordBatch>,
    batches: BatchStream,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + 'static> {
    let writer = FileWriter::try_new(Vec::new(), &schema).map_err(unwritable)?;
    // Without a first batch the source has ended and is not asked again.
    let rest = if first.is_some() { batches } else { futures::stream::empty().boxed() };
    Ok(written(writer, futures::stream::iter(first.map(Ok)).chain(rest).boxed()))
}

/// The bytes of a stream of `batches`.
///
/// # Errors
/// `Internal` when the schema cannot be written.
pub(crate) fn arrow_stream(
    schema: SchemaRef,
    batches: BatchStream,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + 'static> {
    let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(unwritable)?;
    Ok(written(writer, batches))
}

/// One of arrow's two writers.
trait Writer: Send + 'static {
    fn batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError>;
    fn end(&mut self) -> Result<(), ArrowError>;
    fn bytes(&mut self) -> &mut Vec<u8>;
}

impl Writer for FileWriter<Vec<u8>> {
    fn batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.write(batch)
    }

    fn end(&mut self) -> Result<(), ArrowError> {
        self.finish()
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

impl Writer for StreamWriter<Vec<u8>> {
    fn batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.write(batch)
    }

    fn end(&mut self) -> Result<(), ArrowError> {
        self.finish()
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

fn written(
    writer: impl Writer,
    batches: BatchStream,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    let state = (Some(writer), batches);
    futures::stream::try_unfold(state, |(writer, mut batches)| async move {
        let Some(mut writer) = writer else { return Ok(None) };
        let next = batches.try_next().await?;
        match &next {
            Some(batch) => writer.batch(batch),
            None => writer.end(),
        }
        .map_err(unwritable)?;
        let bytes = Bytes::from(std::mem::take(writer.bytes()));
        Ok(Some((bytes, (next.is_some().then_some(writer), batches))))
    })
}

fn unwritable(error: ArrowError) -> Error {
    Error::internal("the answer cannot be written as arrow").with_source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::Int64Array;
    use arrow_ipc::reader::FileReader;

    use super::*;

    fn batch() -> RecordBatch {
        let column = Arc::new(Int64Array::from_iter_values(0..5)) as arrow_array::ArrayRef;
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    async fn bytes(first: Option<RecordBatch>, rest: Vec<Result<RecordBatch>>) -> Result<Vec<u8>> {
        let rest = futures::stream::iter(rest).boxed();
        let chunks: Vec<Bytes> =
            arrow_file(batch().schema(), first, rest).unwrap().try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn what_is_written_piece_by_piece_is_a_file() {
        let file = bytes(Some(batch()), vec![Ok(batch()), Ok(batch())]).await.unwrap();
        let reader = FileReader::try_new(std::io::Cursor::new(file), None).unwrap();
        assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 15);
        let empty = bytes(None, Vec::new()).await.unwrap();
        let reader = FileReader::try_new(std::io::Cursor::new(empty), None).unwrap();
        assert_eq!((reader.schema(), reader.count()), (batch().schema(), 0));
    }

    #[tokio::test]
    async fn an_error_is_no_end() {
        let broken = bytes(Some(batch()), vec![Err(Error::invalid("late"))]).await;
        assert!(broken.is_err());
    }
}
