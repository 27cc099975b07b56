//! DoGet: the rows of one ticket.
//!
//! A task reads the batches, sizes and encodes them; the response's body takes finished frames from a
//! short queue. The task works only as far ahead as the queue is long, so a slow client slows the
//! read down, and a client that went away ends it: the queue closes and the task drops the read.
//!
//! ```text
//!   service's stream ──► gather ──► slice ──► encode ──► queue (2 messages) ──► body ──► client
//!   └────────────────────── one task ──────────────────────┘
//! ```
//!
//! What always holds: the answer ends with OK only if the service's stream ended; a late error, a
//! deadline, a stall or a panic ends it with its status. The generated service would copy every body
//! twice into one buffer, so DoGet is answered on the level of HTTP: see [`respond`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_flight::{FlightData, Ticket};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_proto::command::ReadCommand;
use lakebed_service::{BatchStream, Service};
use prost::Message;
use tokio::sync::mpsc;
use tonic::codec::{DecodeBuf, Decoder, Streaming};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tracing::Instrument;

use crate::batching::{Gathered, slices};
use crate::changes;
use crate::encode::{EncodedMessage, Encoder};
use crate::request::{Call, Deadline, until};
use crate::search;
use crate::sql;
use crate::ticket::{self, TicketContents};
use crate::worker;

/// Messages that wait in the queue: one being sent, one ready, one in the making.
const QUEUE_MESSAGES_MAX: usize = 2;
/// A ticket is small; a client that sends more is refused before it is read.
const TICKET_BYTES_MAX: usize = 16 << 20;

/// Answers a DoGet request on the level of HTTP.
pub(crate) async fn respond(
    service: Arc<Service>,
    request: Request<tonic::body::Body>,
) -> Response<tonic::body::Body> {
    match open_request(service, request).await {
        Ok((call, queue)) => {
            let body = GetBody { queue, call, frames: VecDeque::new(), is_done: false };
            let mut response = Response::new(tonic::body::Body::new(body));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
            response
        }
        Err(status) => status.into_http(),
    }
}

async fn open_request(
    service: Arc<Service>,
    request: Request<tonic::body::Body>,
) -> Result<(Call, mpsc::Receiver<Item>), Status> {
    let (parts, body) = request.into_parts();
    let metadata = MetadataMap::from_headers(parts.headers);
    let call = Call::begin(&service, &metadata, &parts.extensions).await?;
    let mut messages = Streaming::new_request(TicketDecoder, body, None, Some(TICKET_BYTES_MAX));
    let ticket = messages
        .message()
        .await?
        .ok_or_else(|| call.status(&Error::invalid("DoGet has no ticket")))?;
    let queue = open(&service, &call, &ticket).await.map_err(|error| call.status(&error))?;
    Ok((call, queue))
}

/// Answers DoGet with tonic's generated types, for callers inside the process.
pub(crate) async fn do_get(
    service: Arc<Service>,
    call: Call,
    ticket: Ticket,
) -> Result<impl Stream<Item = Result<FlightData, Status>>, Status> {
    let queue = open(&service, &call, &ticket).await.map_err(|error| call.status(&error))?;
    Ok(answers(queue, call))
}

/// What a queue holds in tonic's generated types.
pub(crate) fn answers(
    queue: mpsc::Receiver<Item>,
    call: Call,
) -> impl Stream<Item = Result<FlightData, Status>> {
    futures::stream::unfold(Some((queue, call)), |state| async move {
        let (mut queue, call) = state?;
        match queue.recv().await.unwrap_or_else(lost) {
            Item::Message(message) => Some((Ok(message.into_flight_data()), Some((queue, call)))),
            Item::End(Ok(())) => None,
            Item::End(Err(error)) => Some((Err(call.status(&error)), None)),
        }
    })
}

/// A message of an answer, or how it ended.
pub(crate) enum Item {
    Message(EncodedMessage),
    End(Result<()>),
}

/// The producer is gone without an end: it panicked.
fn lost() -> Item {
    Item::End(Err(Error::internal("the read broke off")))
}

/// Opens a ticket and starts the task that fills the queue.
async fn open(
    service: &Arc<Service>,
    call: &Call,
    ticket: &Ticket,
) -> Result<mpsc::Receiver<Item>> {
    let (schema, batches) = match ticket::decode(&ticket.ticket)? {
        TicketContents::Part(part) => service.read_part(&call.ctx, *part).await?,
        TicketContents::Read(read) => read_now(service, call, *read).await?,
        TicketContents::ChangesPart(part) => service.read_changes(&call.ctx, &part).await?,
        TicketContents::Changes(command) => changes::do_get(service, call, &command).await?,
        TicketContents::Tasks(tasks) => worker::read_tasks(service, call, &tasks).await?,
        TicketContents::Search(search) => search::do_get(service, call, &search).await?,
        TicketContents::Sql(ticket) => sql::do_get_planned(service, call, *ticket).await?,
        TicketContents::Command(command) => sql::do_get(service, call, *command).await?,
    };
    Ok(produce(service, call, schema, batches))
}

/// Starts the task that sends batches.
pub(crate) fn produce(
    service: &Service,
    call: &Call,
    schema: SchemaRef,
    batches: BatchStream,
) -> mpsc::Receiver<Item> {
    let stall = Duration::from_millis(service.limits().read_stall_ms_max);
    let (queue, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let producer = Producer { queue, stall, deadline: call.deadline };
    tokio::spawn(producer.run(schema, batches).in_current_span());
    receiver
}

/// Plans a read and chains its parts in their order.
async fn read_now(
    service: &Arc<Service>,
    call: &Call,
    read: ReadCommand,
) -> Result<(SchemaRef, BatchStream)> {
    let plan = service.plan_read(&call.ctx, read).await?;
    let (service, ctx) = (Arc::clone(service), call.ctx.clone());
    let batches = futures::stream::iter(plan.parts)
        .then(move |part| {
            let (service, ctx) = (Arc::clone(&service), ctx.clone());
            async move { service.read_part(&ctx, part).await.map(|(_, batches)| batches) }
        })
        .try_flatten();
    Ok((plan.schema, Box::pin(batches)))
}

/// Fills the queue of one answer.
struct Producer {
    queue: mpsc::Sender<Item>,
    stall: Duration,
    deadline: Option<Deadline>,
}

impl Producer {
    async fn run(self, schema: SchemaRef, batches: BatchStream) {
        let end = tokio::select! {
            biased;
            // Dropping the read is what stops the work behind it.
            () = self.queue.closed() => return,
            () = until(self.deadline) => Err(Deadline::passed()),
            end = self.produce(schema, batches) => end,
        };
        // The read is gone by now; only this end waits for a client that is slow to take it.
        let _ = self.queue.send(Item::End(end)).await;
    }

    async fn produce(&self, schema: SchemaRef, batches: BatchStream) -> Result<()> {
        let mut batches = Gathered::new(&schema, batches);
        let (mut encoder, announced) = Encoder::new(schema);
        self.send(announced).await?;
        while let Some(batch) = batches.next().await {
            for slice in slices(&batch?) {
                for message in encoder.encode(&slice)? {
                    self.send(message).await?;
                }
            }
        }
        Ok(())
    }

    async fn send(&self, message: EncodedMessage) -> Result<()> {
        let sent = self.queue.send_timeout(Item::Message(message), self.stall).await;
        sent.map_err(|_| {
            Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "the read made no progress for {} ms, which is the limit read_stall_ms_max",
                    self.stall.as_millis()
                ),
            )
        })
    }
}

/// The body of the answer: frames of messages, then the status as trailers.
struct GetBody {
    queue: mpsc::Receiver<Item>,
    call: Call,
    frames: VecDeque<Bytes>,
    is_done: bool,
}

impl GetBody {
    fn end(&mut self, end: Result<()>) -> Frame<Bytes> {
        self.is_done = true;
        let status = match end {
            Ok(()) => Status::new(Code::Ok, ""),
            Err(error) => self.call.status(&error),
        };
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
        }
        Frame::trailers(trailers)
    }
}

impl Body for GetBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if self.is_done {
                return Poll::Ready(None);
            }
            match ready!(self.queue.poll_recv(cx)).unwrap_or_else(lost) {
                Item::Message(message) => match message.into_frame() {
                    Ok(frames) => self.frames = frames.into(),
                    Err(error) => return Poll::Ready(Some(Ok(self.end(Err(error))))),
                },
                Item::End(end) => return Poll::Ready(Some(Ok(self.end(end)))),
            }
        }
    }
}

struct TicketDecoder;

impl Decoder for TicketDecoder {
    type Item = Ticket;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Ticket>, Status> {
        Ticket::decode(src)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("ticket is not protobuf: {error}")))
    }
}

#[cfg(test)]
mod tests;
