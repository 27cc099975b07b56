//! Requests that one server of the lake leads go to that server.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use http::HeaderValue;
use http_body_util::BodyExt as _;
use lakebed_proto::status::REQUEST_ID_HEADER;
use lakebed_service::{BodyError, Forwarded, Led, Port};

use crate::Door;
use crate::error::ApiError;
use crate::observe::RequestId;
use crate::target::Target;
use crate::to_the_end::to_the_end;

/// Runs the verbs of a route that changes the table in its path: to their end, and where the table is
/// led.
pub(crate) fn changes_table(verb: MethodRouter<Door>) -> MethodRouter<Door> {
    to_the_end(verb.layer(from_fn(to_leader)))
}

async fn to_leader(Extension(door): Extension<Door>, request: Request, next: Next) -> Response {
    if door.service.is_alone() {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let id = match Target::from_request_parts(&mut parts, &door).await {
        Ok(target) => target.table(),
        Err(error) => return error.into_response(),
    };
    // What is wrong with the name, the verb says.
    let Ok(id) = id else { return next.run(Request::from_parts(parts, body)).await };
    forward(&door, &Led::Table(id), Request::from_parts(parts, body), next).await
}

/// Runs the verbs of a route about jobs or workers: to their end, and where the jobs run.
pub(crate) fn runs_jobs(verb: MethodRouter<Door>) -> MethodRouter<Door> {
    to_the_end(verb.layer(from_fn(to_jobs)))
}

async fn to_jobs(Extension(door): Extension<Door>, request: Request, next: Next) -> Response {
    if door.service.is_alone() {
        return next.run(request).await;
    }
    forward(&door, &Led::Jobs, request, next).await
}

/// Runs the verbs of a route about one upload: to their end, and one after the other in one server.
pub(crate) fn changes_upload(verb: MethodRouter<Door>) -> MethodRouter<Door> {
    to_the_end(verb.layer(from_fn(to_uploader)))
}

async fn to_uploader(Extension(door): Extension<Door>, request: Request, next: Next) -> Response {
    if door.service.is_alone() {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let id = match Target::from_request_parts(&mut parts, &door).await {
        Ok(target) => target.path("id").map(str::to_owned),
        Err(error) => return error.into_response(),
    };
    // An id that is none names no lease either; the verb refuses it.
    let id =
        id.ok().filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    let Some(id) = id else { return next.run(Request::from_parts(parts, body)).await };
    forward(&door, &Led::Upload(id), Request::from_parts(parts, body), next).await
}

async fn forward(door: &Door, led: &Led, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Some(id) = parts.extensions.get::<RequestId>()
        && let Ok(id) = HeaderValue::try_from(&id.0)
    {
        parts.headers.insert(REQUEST_ID_HEADER, id);
    }
    let body = body.map_err(|error| Box::new(error) as BodyError).boxed_unsync();
    let request = Request::from_parts(parts, body);
    match door.service.forward(led, Port::Http, request).await {
        Ok(Forwarded::Here(request)) => next.run(request.map(Body::new)).await,
        Ok(Forwarded::Answered(answer)) => answer.map(Body::new),
        Err(error) => ApiError::from(error).into_response(),
    }
}
