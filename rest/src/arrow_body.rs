//! A request body that is an Arrow stream, as the batches of a write.
//!
//! Why it exists: an insert may be larger than memory, so its body becomes a stream of batches while it
//! arrives. Memory for a message is taken before its body is read, and again, by what it decodes to,
//! before it is decoded; it goes back when the write asks for the batch after it.
//!
//! What always holds: the stream ends plainly only after the end marker of the Arrow stream and the end
//! of the body. A connection that breaks, stalls or is reset (which hyper may show as a plain end) comes
//! before the marker, so the write sees an error and commits nothing.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use lakebed_proto::ipc_guard::{MessageKind, check_message};
use lakebed_proto::ipc_stream::{Frame, IpcFramer};
use lakebed_service::{BatchStream, Permit, Service};

use crate::body::refuse_encoding;
use crate::params::shown;

/// The media type of an Arrow stream.
pub(crate) const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// Bodies from this size are decoded off the threads that serve sockets.
const INLINE_BODY_BYTES_MAX: usize = 32 << 10;

/// Whether the body says that it is an Arrow stream.
pub(crate) fn is_arrow(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(ARROW_STREAM))
}

/// The schema and the batches of a body.
///
/// # Errors
/// `InvalidArgument` for another media type or a body that does not begin with a schema.
pub(crate) async fn arrow_body(
    service: &Arc<Service>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(SchemaRef, BatchStream)> {
    refuse_encoding(headers)?;
    if !is_arrow(headers) {
        let given = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
        return Err(Error::invalid(format!(
            "the body has to be of type `{ARROW_STREAM}`, not `{}`",
            shown(given.as_deref().unwrap_or("unknown"))
        )));
    }
    let mut reader = ArrowBody::new(service, body);
    let schema = match reader.next().await? {
        Some(Decoded::Schema(schema)) => schema,
        _ => return Err(Error::invalid("the arrow stream does not begin with a schema")),
    };
    let batches = futures::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next_batch().await?.map(|batch| (batch, reader)))
    });
    Ok((schema, Box::pin(batches)))
}

struct ArrowBody {
    service: Arc<Service>,
    body: BodyDataStream,
    stall: Duration,
    framer: IpcFramer,
    /// Not here only while a thread works with it.
    decoder: Option<IpcDecoder>,
    chunk: Bytes,
    messages: u64,
    share: Option<Permit>,
}

impl ArrowBody {
    fn new(service: &Arc<Service>, body: Body) -> Self {
        let limits = service.limits();
        ArrowBody {
            service: Arc::clone(service),
            body: body.into_data_stream(),
            stall: Duration::from_millis(limits.write_stall_ms_max),
            framer: IpcFramer::new(limits),
            decoder: Some(IpcDecoder::new(limits)),
            chunk: Bytes::new(),
            messages: 0,
            share: None,
        }
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match self.next().await? {
                Some(Decoded::Batch(batch)) => return Ok(Some(batch)),
                Some(Decoded::Dictionary) => {}
                Some(Decoded::Schema(_)) => {
                    return Err(Error::invalid("the arrow stream has a second schema"));
                }
                None => return Ok(None),
            }
        }
    }

    /// The next message, or nothing once the stream and the body have ended.
    async fn next(&mut self) -> Result<Option<Decoded>> {
        // Whoever asks has no more use for what came before.
        self.share = None;
        loop {
            let at = self.messages + 1;
            let frame = self.framer.take(&mut self.chunk);
            match frame.map_err(|error| error.context(format!("message {at}")))? {
                Some(Frame::Body(bytes)) => {
                    self.share = Some(self.service.admit_batch(bytes as u64).await?);
                }
                Some(Frame::Message { header, body }) => {
                    self.messages = at;
                    let decoded = self.decode(header, body).await;
                    return decoded.map(Some).map_err(|e| e.context(format!("message {at}")));
                }
                Some(Frame::End) => {}
                None => match self.chunk().await? {
                    Some(chunk) => self.chunk = chunk,
                    None if self.framer.is_ended() => return Ok(None),
                    None => return Err(self.unfinished()),
                },
            }
        }
    }

    async fn decode(&mut self, header: Bytes, body: Bytes) -> Result<Decoded> {
        let checked = check_message(&header, &body, self.service.limits())?;
        let bytes = checked.decoded_bytes.max(body.len() as u64);
        let is_batch = checked.kind == MessageKind::Batch;
        // Given back before more is asked for: a task never waits for two shares at once.
        self.share = None;
        if is_batch {
            self.share = Some(self.service.admit_batch(bytes).await?);
        }
        let Some(mut decoder) = self.decoder.take() else {
            return Err(Error::internal("the decoder of a body was lost"));
        };
        if body.len() <= INLINE_BODY_BYTES_MAX {
            let decoded = decoder.decode(&header, body);
            self.decoder = Some(decoder);
            return decoded;
        }
        let (decoder, decoded) = tokio::task::spawn_blocking(move || {
            let decoded = decoder.decode(&header, body);
            (decoder, decoded)
        })
        .await
        .map_err(|error| Error::internal("decoding a message broke off").with_source(error))?;
        self.decoder = Some(decoder);
        decoded
    }

    /// What is wrong with a body that ended in order and whose stream did not.
    fn unfinished(&self) -> Error {
        match self.messages == 0 && self.framer.is_fresh() {
            true => Error::invalid("the body is empty; an arrow stream is wanted"),
            false => Error::invalid(
                "the body ends before the end marker of its arrow stream; nothing was written",
            ),
        }
    }

    /// The next bytes of the body.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.stall, self.body.try_next()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(broke_off().with_source(error)),
            Err(_) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "no byte of the body came for {} ms, which is the limit write_stall_ms_max",
                    self.stall.as_millis()
                ),
            )),
        }
    }
}

fn broke_off() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the body broke off before the end marker of its arrow stream; nothing was written",
    )
}
