//! `POST /v1/table/{id}/branches/list`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListBranches {
    id: Option<Vec<String>>,
    limit: Option<u64>,
    page_token: Option<String>,
}

pub(crate) async fn list_branches(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListBranches>,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token"])?;
    target.check_id(body.id.as_deref())?;
    let token = body.page_token.as_deref().filter(|token| !token.is_empty());
    let page = PageRequest::new(
        body.limit.or(params.number("limit")?),
        token.or(params.text("page_token")),
    )?;
    let branches = door.service.list_branches(target.ctx(), &target.table()?).await?;
    let (branches, token) = page.cut(branches, |branch| &branch.name);
    let shown: Map<String, Value> = branches
        .into_iter()
        .map(|branch| {
            let mut contents = json!({
                "parentVersion": branch.parent_version,
                "createAt": branch.created_at.timestamp(),
                "manifestSize": branch.manifest_bytes,
            });
            if let Some(parent) = branch.parent {
                contents["parentBranch"] = Value::from(parent);
            }
            (branch.name, contents)
        })
        .collect();
    let mut answer = json!({ "branches": shown });
    if let Some(token) = token {
        answer["page_token"] = Value::from(token);
    }
    Ok(Json(answer).into_response())
}
