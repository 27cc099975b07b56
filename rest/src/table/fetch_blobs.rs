//! `POST /v1/table/{id}/fetch_blobs`: the bytes of some blobs, as an Arrow stream of one column.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use lakebed_core::Error;
use lakebed_proto::command::ReadCommand;
use serde::Deserialize;

use super::{VERSION_HEADER, refused};
use crate::Door;
use crate::arrow_answer::arrow_stream;
use crate::arrow_body::ARROW_STREAM;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FetchBlobs {
    id: Option<Vec<String>>,
    version: Option<u64>,
    branch: Option<String>,
    column: Option<String>,
    row_ids: Option<Vec<u64>>,
}

pub(crate) async fn fetch_blobs(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<FetchBlobs>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let Some(column) = body.column.filter(|column| !column.is_empty()) else {
        return Err(Error::invalid("field `column` is missing").into());
    };
    let row_ids = body.row_ids.ok_or_else(|| Error::invalid("field `row_ids` is missing"))?;
    let at = ReadCommand {
        version: body.version,
        branch: body.branch.filter(|branch| !branch.is_empty()),
        ..ReadCommand::default()
    };
    let (schema, batches, version) = door
        .service
        .fetch_blobs(target.ctx(), &target.table()?, &at, &column, &row_ids)
        .await
        .map_err(refused)?;
    let mut response = Response::new(Body::from_stream(arrow_stream(schema, batches)?));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
    headers.insert(VERSION_HEADER, HeaderValue::from(version));
    Ok(response)
}
