//! `POST /v1/jobs/query_events`: what happened to a job, as an Arrow stream.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::StreamExt as _;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::job_id;
use crate::Door;
use crate::arrow_answer::arrow_stream;
use crate::arrow_body::ARROW_STREAM;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueryEvents {
    job_id: Option<String>,
    limit: Option<usize>,
    filter: Option<String>,
}

pub(crate) async fn query_events(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<QueryEvents>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let filter = body.filter.as_deref().filter(|filter| !filter.trim().is_empty());
    let (service, id) = (&door.service, job_id(body.job_id)?);
    let events = service.job_events(target.ctx(), &id, filter, body.limit).await?;
    let schema = events.schema();
    let batches = futures::stream::iter([Ok(events)]).boxed();
    let mut response = Response::new(Body::from_stream(arrow_stream(schema, batches)?));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
    Ok(response)
}
