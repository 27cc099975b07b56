//! `POST /v1/table/{id}/suggest`: the words that were meant.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lakebed_core::Error;
use lakebed_proto::search::SearchRequest;
use serde::Deserialize;

use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;
use crate::timeout::within_request_timeout;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SuggestBody {
    id: Option<Vec<String>>,
    branch: Option<String>,
    version: Option<u64>,
    text: Option<String>,
    column: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn suggest(
    State(door): State<Door>,
    target: Target,
    headers: HeaderMap,
    StrictBody(body): StrictBody<SuggestBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let text = body.text.ok_or_else(|| Error::invalid("field `text` is missing"))?;
    let at = SearchRequest {
        table: target.table()?.text(),
        version: body.version,
        branch: given(body.branch),
        ..SearchRequest::default()
    };
    let column = given(body.column);
    let looking = door.service.suggest(target.ctx(), &at, column.as_deref(), &text, body.limit);
    let found = within_request_timeout(&headers, looking).await.map_err(refused)?;
    let version = found.version;
    Ok(versioned(found, version))
}
