//! `GET /v1/namespace/{id}/function/list`: the versions of the functions of a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_service::FunctionVersion;
use serde_json::{Value, json};

use crate::Door;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::target::Target;

pub(crate) async fn list_functions(
    State(door): State<Door>,
    target: Target,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token", "include_definition"])?;
    let page = PageRequest::new(params.number("limit")?, params.text("page_token"))?;
    let functions = door.service.list_functions(target.ctx(), &target.namespace()?).await?;
    // Numbers of versions in a width that sorts as they do.
    let key = |it: &FunctionVersion| format!("{} {:020}", it.id.name, it.number);
    let keyed: Vec<(String, FunctionVersion)> =
        functions.into_iter().map(|function| (key(&function), function)).collect();
    let (keyed, token) = page.cut(keyed, |(key, _)| key);
    let functions = keyed.iter().map(|(_, function)| Ok(json!({ "definition": function.json()? })));
    let functions = functions.collect::<lakebed_core::Result<Vec<Value>>>()?;
    let mut answer = json!({ "functions": functions });
    if let Some(token) = token {
        answer["page_token"] = token.into();
    }
    Ok(Json(answer).into_response())
}
