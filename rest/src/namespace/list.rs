//! `GET /v1/namespace/{id}/list`: the names directly below a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Place;
use crate::Door;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::target::Target;

pub(crate) async fn list_namespaces(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token"])?;
    let page = PageRequest::new(params.number("limit")?, params.text("page_token"))?;
    let ctx = target.ctx();
    let names = match Place::find(&target)? {
        Some(place) => door.service.list_namespaces(ctx, &place.database, &place.path).await?,
        None => {
            let databases = door.service.list_databases(ctx).await?;
            databases.iter().map(ToString::to_string).collect()
        }
    };
    let (names, token) = page.cut(names, |name| name);
    let mut answer = json!({ "namespaces": names });
    if let Some(token) = token {
        answer["page_token"] = token.into();
    }
    Ok(Json(answer).into_response())
}
