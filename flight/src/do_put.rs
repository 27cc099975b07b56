//! DoPut: a stream of batches becomes one write; commands of Flight SQL go to `sql/`, results of tasks to
//! `worker.rs`.
//!
//! The handler itself reads the messages and feeds a task that runs the write, so that the two ways a
//! client can go away are told apart: while the stream runs, the handler is dropped and the feed breaks
//! with it, which the write sees as an error; once the stream has ended cleanly, the write is on its
//! own and runs to its end.
//!
//! ```text
//!   messages ──► marker, guard, admit, decode ──► feed ─ ─ task ─ ─► Service::write ──► receipt
//! ```
//!
//! What always holds: the stream that the write sees ends plainly only after the client itself ended
//! its stream (see `body_watch.rs`), in time, with the commit marker where one is asked for, and while
//! the call is still there.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::sql::Command as SqlCommand;
use arrow_flight::{FlightData, PutResult};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt};
use http::Extensions;
use lakebed_core::{Error, ErrorKind, Limits, RequestContext, Result};
use lakebed_proto::command::{CommitRule, WriteCommand};
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use lakebed_proto::ipc_guard::{MessageKind, check_message};
use lakebed_proto::receipt::Receipt;
use lakebed_service::{BatchStream, Service};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tracing::Instrument;

use crate::body_watch::BodyEnd;
use crate::commit_marker::MarkerCheck;
use crate::descriptor::{result_command, sql_command, write_command};
use crate::feed::{Feed, Share, feed};
use crate::request::{Call, Deadline, until};
use crate::sql;
use crate::worker;

/// Bodies from this size are decoded off the threads that serve sockets.
const INLINE_BODY_BYTES_MAX: usize = 32 << 10;

/// Runs one DoPut.
pub(crate) async fn do_put<S>(
    service: Arc<Service>,
    call: Call,
    extensions: &Extensions,
    messages: S,
) -> Result<PutResult, Status>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    let limits = service.limits().clone();
    let mut messages = PutMessages::new(messages, &call, extensions, &limits);
    let done = async {
        let first = messages.next().await?;
        let first = first.ok_or_else(|| Error::invalid("DoPut has no first message"))?;
        let descriptor = first
            .flight_descriptor
            .as_ref()
            .ok_or_else(|| Error::invalid("the first message of DoPut has no descriptor"))?;
        if let Some(task) = result_command(descriptor)? {
            let ctx = call.ctx.clone();
            return worker::put_results(&service, ctx, task, first, &mut messages, &limits).await;
        }
        match sql_command(descriptor)? {
            None => {
                let command = write_command(&call.ctx.database, descriptor)?;
                let ctx = call.ctx.clone();
                let receipt = put_rows(&service, ctx, command, first, &mut messages, &limits);
                let json = serde_json::to_vec(&receipt.await?).map_err(|error| {
                    Error::internal("the receipt cannot be written").with_source(error)
                })?;
                Ok(PutResult { app_metadata: Bytes::from(json) })
            }
            Some(SqlCommand::CommandStatementIngest(ingest)) => {
                let (database, command) = sql::write_of(&service, &call, ingest).await?;
                let ctx = RequestContext { database, ..call.ctx.clone() };
                let receipt = put_rows(&service, ctx, command, first, &mut messages, &limits);
                sql::updated(receipt.await?.rows)
            }
            Some(command) => sql::do_put(&service, &call, command, first, &mut messages).await,
        }
    };
    done.await.map_err(|error| call.status(&error))
}

/// Writes the rows of a stream whose first message is `first`.
async fn put_rows<S>(
    service: &Arc<Service>,
    ctx: RequestContext,
    command: WriteCommand,
    first: FlightData,
    messages: &mut PutMessages<S>,
    limits: &Limits,
) -> Result<Receipt>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    let admit = admission(service);
    let (service, rule) = (Arc::clone(service), command.commit);
    let write = async move |schema, batches: BatchStream| {
        service.write(&ctx, command, schema, batches).await
    };
    run(rule, first, messages, limits, admit, write).await
}

/// Takes the share of memory of a batch that is about to be decoded.
pub(crate) fn admission(
    service: &Arc<Service>,
) -> impl Fn(u64) -> BoxFuture<'static, Result<Share>> + Send + Sync + use<> {
    let service = Arc::clone(service);
    move |bytes| {
        let service = Arc::clone(&service);
        async move { Ok(Box::new(service.admit_batch(bytes).await?) as Share) }.boxed()
    }
}

/// Starts the write with the first message and pumps the rest into it.
pub(crate) async fn run<S, A, P, W, F, R>(
    rule: CommitRule,
    first: FlightData,
    messages: &mut PutMessages<S>,
    limits: &Limits,
    admit: A,
    write: W,
) -> Result<R>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
    A: Fn(u64) -> P + Send + Sync,
    P: Future<Output = Result<Share>> + Send,
    W: FnOnce(arrow_schema::SchemaRef, BatchStream) -> F,
    F: Future<Output = Result<R>> + Send + 'static,
    R: Send + 'static,
{
    let mut decoder = IpcDecoder::new(limits);
    let mut marker = MarkerCheck::new(rule);
    let no_schema = || Error::invalid("the first message of DoPut has no schema");
    if first.data_header.is_empty() {
        return Err(no_schema());
    }
    let schema = match decoder.decode(&first.data_header, first.data_body) {
        Ok(Decoded::Schema(schema)) => schema,
        Ok(_) => return Err(no_schema()),
        Err(error) => return Err(error.context("message 1")),
    };
    marker.message(&first.app_metadata, 0)?;

    let (feed, batches) = feed(messages.deadline);
    let mut write = tokio::spawn(write(schema, batches).in_current_span());
    let mut pump = std::pin::pin!(pump(messages, decoder, marker, limits, &admit, &feed));
    let mut early = None;
    let pumped = loop {
        tokio::select! {
            pumped = &mut pump => break pumped,
            written = &mut write, if early.is_none() => {
                // An error is told at once. A receipt before the stream's end is that of an earlier
                // write with the same id; a client expects that its stream is read to its end.
                early = Some(written.unwrap_or_else(|error| {
                    Err(Error::internal("the write broke off").with_source(error))
                })?);
            }
        }
    };
    match (pumped, early) {
        (Ok(()), Some(receipt)) => Ok(receipt),
        (Ok(()), None) => {
            feed.complete().await;
            committed(write).await
        }
        (Err(error), Some(_)) => Err(error),
        (Err(error), None) => {
            feed.fail(Error::new(error.kind(), error.message())).await;
            // The write lets go of what it holds before the client may try again. Past a deadline there
            // is nobody to wait for, and the transport would answer in our place.
            if error.kind() != ErrorKind::DeadlineExceeded {
                let _ = write.await;
            }
            Err(error)
        }
    }
}

/// Waits for a write whose stream has ended: from here on it may have committed.
async fn committed<R>(write: JoinHandle<Result<R>>) -> Result<R> {
    write.await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::CommitUnknown, "the write broke off").with_source(error))
    })
}

/// Feeds every message after the first; returns once the stream ended as it must for a commit.
async fn pump<S, A, P>(
    messages: &mut PutMessages<S>,
    decoder: IpcDecoder,
    mut marker: MarkerCheck,
    limits: &Limits,
    admit: &A,
    feed: &Feed,
) -> Result<()>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
    A: Fn(u64) -> P + Send + Sync,
    P: Future<Output = Result<Share>> + Send,
{
    feed.wanted().await;
    let mut decoder = Some(decoder);
    while let Some(data) = messages.next().await? {
        let at = messages.count;
        let in_message = |error: Error| error.context(format!("message {at}"));
        let FlightData { data_header, data_body, app_metadata, .. } = data;
        if data_header.is_empty() {
            if !data_body.is_empty() {
                return Err(in_message(Error::invalid("a body comes without its header")));
            }
            marker.message(&app_metadata, 0).map_err(in_message)?;
            continue;
        }
        let checked = check_message(&data_header, &data_body, limits).map_err(in_message)?;
        let is_batch = checked.kind == MessageKind::Batch;
        let rows = if is_batch { checked.rows } else { 0 };
        // Once the write has its receipt from before, the rest is only counted.
        if feed.is_open() {
            // Taken before the batch is decoded; it may share the message's body.
            let bytes = checked.decoded_bytes.max(data_body.len() as u64);
            let share = if is_batch { admit(bytes).await? } else { Box::new(()) };
            // `decoder` is only out of its place while a thread works with it.
            let Some(own) = decoder.take() else {
                return Err(Error::internal("the decoder of a write was lost"));
            };
            let (own, decoded) = decode(own, data_header, data_body).await?;
            decoder = Some(own);
            match decoded.map_err(in_message)? {
                Decoded::Batch(batch) => feed.batch(batch, share).await,
                Decoded::Dictionary => {}
                Decoded::Schema(_) => {
                    return Err(in_message(Error::invalid("the stream has a second schema")));
                }
            }
        }
        marker.message(&app_metadata, rows).map_err(in_message)?;
    }
    marker.end()
}

/// Decodes a message, on a thread for blocking work if it is large.
async fn decode(
    mut decoder: IpcDecoder,
    header: Bytes,
    body: Bytes,
) -> Result<(IpcDecoder, Result<Decoded>)> {
    if body.len() <= INLINE_BODY_BYTES_MAX {
        let decoded = decoder.decode(&header, body);
        return Ok((decoder, decoded));
    }
    tokio::task::spawn_blocking(move || {
        let decoded = decoder.decode(&header, body);
        (decoder, decoded)
    })
    .await
    .map_err(|error| Error::internal("decoding a message broke off").with_source(error))
}

/// The messages of one stream of a client, with every way in which they can end told apart.
pub(crate) struct PutMessages<S> {
    messages: S,
    end: BodyEnd,
    deadline: Option<Deadline>,
    stall: Duration,
    message_bytes_max: usize,
    /// Messages so far.
    count: u64,
}

impl<S> PutMessages<S>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    /// The messages of a call that is not begun.
    pub(crate) fn new(messages: S, call: &Call, extensions: &Extensions, limits: &Limits) -> Self {
        PutMessages {
            messages,
            // Without a watch nothing tells how the stream ended, and nothing commits.
            end: extensions.get::<BodyEnd>().cloned().unwrap_or_default(),
            deadline: call.deadline,
            stall: Duration::from_millis(limits.write_stall_ms_max),
            message_bytes_max: limits.message_bytes_max,
            count: 0,
        }
    }

    /// The next message; `None` only if the client ended its stream.
    pub(crate) async fn next(&mut self) -> Result<Option<FlightData>> {
        let message = tokio::select! {
            biased;
            () = until(self.deadline) => return Err(Deadline::passed()),
            message = self.messages.next() => message,
            () = tokio::time::sleep(self.stall) => return Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "no message came for {} ms, which is the limit write_stall_ms_max",
                    self.stall.as_millis()
                ),
            )),
        };
        match message {
            Some(Ok(data)) => {
                self.count += 1;
                Ok(Some(data))
            }
            Some(Err(status)) => Err(self.broken(&status)),
            None if self.end.is_clean() => Ok(None),
            None => Err(gone()),
        }
    }

    fn broken(&self, status: &Status) -> Error {
        let at = self.count + 1;
        if self.end.is_broken() || status.code() == Code::Cancelled {
            return gone();
        }
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => Error::invalid(format!(
                "message {at} is larger than the limit message_bytes_max, which is {} bytes",
                self.message_bytes_max
            )),
            _ => Error::invalid(format!("message {at} cannot be read: {}", status.message())),
        }
    }
}

/// What a write sees of a client that went away.
pub(crate) fn gone() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the stream was cancelled or broken before its end; nothing was written",
    )
}

#[cfg(test)]
mod tests;
