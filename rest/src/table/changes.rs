//! `POST /v1/table/{id}/changes`: what changed between two versions, as an Arrow stream.
//!
//! The headers say which versions the rows lie between; the second is where a cursor is to be moved when
//! the rows are dealt with.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use lakebed_proto::changes::{ChangesCommand, Kind, Point};
use lakebed_proto::command::BlobMode;
use lakebed_service::Changes;
use serde::Deserialize;

use super::{VERSION_HEADER, refused};
use crate::Door;
use crate::arrow_answer::arrow_stream;
use crate::arrow_body::ARROW_STREAM;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

const FROM_HEADER: HeaderName = HeaderName::from_static("x-lakebed-from-version");
const TO_HEADER: HeaderName = HeaderName::from_static("x-lakebed-to-version");

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ChangesBody {
    id: Option<Vec<String>>,
    from: Option<Point>,
    to: Option<Point>,
    branch: Option<String>,
    cursor: Option<String>,
    columns: Option<Vec<String>>,
    kinds: Option<Vec<Kind>>,
    blobs: Option<BlobMode>,
}

pub(crate) async fn changes(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ChangesBody>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let command = ChangesCommand {
        table: target.table()?.text(),
        branch: target.branch(body.branch.as_deref())?.map(str::to_owned),
        from: body.from,
        to: body.to,
        cursor: body.cursor,
        columns: body.columns,
        kinds: body.kinds,
        blobs: body.blobs,
    };
    let found = door.service.changes(target.ctx(), &command).await.map_err(refused)?;
    let Changes { schema, mut batches, from, to } = found;
    // What goes wrong before the first rows can still be said by a status.
    let first = batches.try_next().await.map_err(refused)?;
    // Without a first batch the source has ended and is not asked again.
    let rest = if first.is_some() { batches } else { futures::stream::empty().boxed() };
    let batches = futures::stream::iter(first.map(Ok)).chain(rest).boxed();
    let mut response = Response::new(Body::from_stream(arrow_stream(schema, batches)?));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
    headers.insert(VERSION_HEADER, HeaderValue::from(to));
    headers.insert(FROM_HEADER, HeaderValue::from(from));
    headers.insert(TO_HEADER, HeaderValue::from(to));
    Ok(response)
}
