//! `GET /v1/namespace/{id}/secret/list`: the names of the secrets of a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::Door;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::target::Target;

pub(crate) async fn list_secrets(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token"])?;
    let page = PageRequest::new(params.number("limit")?, params.text("page_token"))?;
    let secrets = door.service.list_secrets(target.ctx(), &target.namespace()?).await?;
    let names: Vec<String> = secrets.iter().map(|id| id.name.to_string()).collect();
    let (names, token) = page.cut(names, |name| name);
    let secrets: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let mut answer = json!({ "secrets": secrets });
    if let Some(token) = token {
        answer["page_token"] = token.into();
    }
    Ok(Json(answer).into_response())
}
