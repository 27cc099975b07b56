//! Calls about what another server of the lake leads go there as they come: writes to its tables, and
//! what workers ask where the jobs run.
//!
//! The first message of a call says what it is about. It is read before the call begins, and put back in
//! front of the others, whoever answers. What goes to another server is neither decoded nor written anew:
//! the frames of HTTP/2 are passed on, and so are the answer and its trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow_flight::sql::Command as SqlCommand;
use arrow_flight::{Action, FlightData, Ticket};
use bytes::{Buf as _, Bytes, BytesMut};
use http::request::Parts;
use http::{Extensions, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use lakebed_core::{Error, Result, TableId};
use lakebed_proto::status::REQUEST_ID_HEADER;
use lakebed_proto::worker::WORKER_ACTIONS;
use lakebed_service::{BodyError, Forwarded, Led, Port, Service};
use tonic::metadata::MetadataMap;

use crate::body_watch::BodyEnd;
use crate::descriptor::{result_command, sql_command, write_command};
use crate::request::{Call, RequestId, status};
use crate::sql;
use crate::ticket::{self, TicketContents};

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// What is to be done with a call.
pub(crate) enum Routed {
    /// It is answered here.
    Here(Request<tonic::body::Body>),
    /// This is its answer.
    Answered(Response<tonic::body::Body>),
}

/// Sends a call to the server that leads what it is about, where that is another one.
pub(crate) async fn route(
    service: &Arc<Service>,
    method: &str,
    request: Request<tonic::body::Body>,
) -> Routed {
    let is_about_more = matches!(method, "DoPut" | "DoGet" | "DoAction");
    if service.is_alone() || !is_about_more {
        return Routed::Here(request);
    }
    let (parts, mut body) = request.into_parts();
    let peeked = peek(&mut body, service.limits().message_bytes_max).await;
    let led = match method {
        "DoPut" => {
            let metadata = MetadataMap::from_headers(parts.headers.clone());
            led_of_put(service, &metadata, &parts.extensions, &peeked).await
        }
        "DoGet" => message::<Ticket>(&peeked)
            .and_then(|ticket| ticket::decode(&ticket.ticket).ok())
            .and_then(|contents| matches!(contents, TicketContents::Tasks(_)).then_some(Led::Jobs)),
        _ => message::<Action>(&peeked)
            .filter(|action| WORKER_ACTIONS.contains(&action.r#type.as_str()))
            .map(|_| Led::Jobs),
    };
    let end = parts.extensions.get::<BodyEnd>().cloned().unwrap_or_default();
    let body = Joined { first: peeked, rest: body, end };
    match led {
        None => Routed::Here(Request::from_parts(parts, tonic::body::Body::new(body))),
        Some(led) => send(service, &led, parts, body).await,
    }
}

/// Sends a call of the worker protocol's own service to the server that runs the jobs.
pub(crate) async fn route_worker(
    service: &Arc<Service>,
    request: Request<tonic::body::Body>,
) -> Routed {
    if service.is_alone() {
        return Routed::Here(request);
    }
    let (parts, body) = request.into_parts();
    send(service, &Led::Jobs, parts, body.map_err(Into::into)).await
}

async fn send<B>(service: &Service, led: &Led, mut parts: Parts, body: B) -> Routed
where
    B: Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
{
    let id = parts.extensions.get::<RequestId>().map(ToString::to_string).unwrap_or_default();
    if let Ok(id) = HeaderValue::try_from(&id) {
        parts.headers.insert(REQUEST_ID_HEADER, id);
    }
    let request = Request::from_parts(parts, Dense(body).boxed_unsync());
    match service.forward(led, Port::Flight, request).await {
        Ok(Forwarded::Here(request)) => {
            Routed::Here(request.map(|body| tonic::body::Body::new(body.map_err(to_status))))
        }
        Ok(Forwarded::Answered(answer)) => Routed::Answered(answer.map(tonic::body::Body::new)),
        Err(error) => Routed::Answered(status(&error, &id).into_http()),
    }
}

/// The first message, decoded; nothing where it is compressed or no such message.
fn message<M: prost::Message + Default>(peeked: &Bytes) -> Option<M> {
    let mut bytes = peeked.clone();
    if bytes.len() < PREFIX_BYTES || bytes.get_u8() != 0 {
        return None;
    }
    let length = bytes.get_u32() as usize;
    M::decode(bytes.get(..length)?).ok()
}

fn to_status(error: BodyError) -> tonic::Status {
    tonic::Status::cancelled(error.to_string())
}

/// The first message with its prefix, or as much as came before the stream ended or the limit was hit.
async fn peek(body: &mut tonic::body::Body, limit: usize) -> Bytes {
    let mut seen = BytesMut::new();
    loop {
        if seen.len() >= PREFIX_BYTES {
            let length = u32::from_be_bytes([seen[1], seen[2], seen[3], seen[4]]) as usize;
            if length > limit || seen.len() >= PREFIX_BYTES + length {
                return seen.freeze();
            }
        }
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => seen.extend_from_slice(&data),
                Err(_) => return seen.freeze(),
            },
            _ => return seen.freeze(),
        }
    }
}

/// What a DoPut is about by its first message. Whatever is wrong with a message, its own method says.
async fn led_of_put(
    service: &Service,
    metadata: &MetadataMap,
    extensions: &Extensions,
    peeked: &Bytes,
) -> Option<Led> {
    let first = message::<FlightData>(peeked)?;
    let call = Call::begin(service, metadata, extensions).await.ok()?;
    let descriptor = first.flight_descriptor?;
    if result_command(&descriptor).ok()?.is_some() {
        return Some(Led::Jobs);
    }
    let table: Result<TableId> = async {
        match sql_command(&descriptor)? {
            None => {
                let command = write_command(&call.ctx.database, &descriptor)?;
                TableId::parse(&call.ctx.database, &command.table)
            }
            Some(SqlCommand::CommandStatementIngest(ingest)) => sql::table_of(&call, &ingest),
            // The service sends statements on once it has parsed them.
            Some(_) => Err(Error::invalid("a statement")),
        }
    }
    .await;
    table.ok().map(Led::Table)
}

/// A body without pieces of no bytes. A client ends its stream with one, and passed on as a piece by itself
/// it is a frame that HTTP/2 takes for an attack: h2 closes a connection after a hundred of them.
struct Dense<B>(B);

impl<B: Body<Data = Bytes> + Unpin> Body for Dense<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
            match &frame {
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                _ => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// A body whose first bytes were read before. A stream that its client did not end breaks.
struct Joined {
    first: Bytes,
    rest: tonic::body::Body,
    end: BodyEnd,
}

impl Body for Joined {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
            Some(frame) => Poll::Ready(Some(frame.map_err(Into::into))),
            None if self.end.is_clean() => Poll::Ready(None),
            None => Poll::Ready(Some(Err("the client went away".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream() && self.end.is_clean()
    }
}
