//! `POST /v1/catalogue/search`: tables, views, functions, models, tags and namespaces by words.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_service::FindThings;
use serde::Deserialize;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SearchCatalogue {
    text: String,
    kinds: Vec<String>,
    limit: Option<usize>,
}

pub(crate) async fn search_catalogue(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<SearchCatalogue>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let SearchCatalogue { text, kinds, limit } = body;
    let find = FindThings { text, kinds, limit };
    Ok(Json(door.service.find_things(target.ctx(), find).await?).into_response())
}
