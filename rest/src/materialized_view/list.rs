//! `GET /v1/namespace/{id}/materialized_view/list`: the names of the materialized views of a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::Door;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::target::Target;

pub(crate) async fn list_materialized_views(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token"])?;
    let page = PageRequest::new(params.number("limit")?, params.text("page_token"))?;
    let views = door.service.list_materialized_views(target.ctx(), &target.namespace()?).await?;
    let names: Vec<String> = views.iter().map(|id| id.name.to_string()).collect();
    let (names, token) = page.cut(names, |name| name);
    let mut answer = json!({ "views": names });
    if let Some(token) = token {
        answer["page_token"] = token.into();
    }
    Ok(Json(answer).into_response())
}
