//! `POST /v1/table/{id}/tags/list`.
//!
//! The SDKs read a flat map from tag to contents; clients of the specification the same map under
//! `tags`, in pages. The slash at the path's end tells them apart.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Result;
use lakebed_service::TagSummary;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::page::PageRequest;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListTags {
    id: Option<Vec<String>>,
    limit: Option<u64>,
    page_token: Option<String>,
}

pub(crate) async fn list_tags(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<ListTags>,
) -> Result<Response, ApiError> {
    let params = target.params(&["limit", "page_token"])?;
    target.check_id(body.id.as_deref())?;
    let token = body.page_token.as_deref().filter(|token| !token.is_empty());
    let page = PageRequest::new(
        body.limit.or(params.number("limit")?),
        token.or(params.text("page_token")),
    )?;
    let tags = door.service.list_tags(target.ctx(), &target.table()?).await?;
    Ok(Json(answer(tags, &page, target.is_sdk())).into_response())
}

fn answer(mut tags: Vec<TagSummary>, page: &PageRequest, is_sdk: bool) -> Value {
    tags.sort_by(|a, b| a.name.cmp(&b.name));
    if is_sdk {
        return Value::Object(map(tags));
    }
    let (tags, token) = page.cut(tags, |tag| &tag.name);
    let mut answer = json!({ "tags": map(tags) });
    if let Some(token) = token {
        answer["page_token"] = Value::from(token);
    }
    answer
}

fn map(tags: Vec<TagSummary>) -> Map<String, Value> {
    tags.into_iter()
        .map(|tag| {
            let mut contents =
                json!({ "version": tag.version, "manifestSize": tag.manifest_bytes });
            if let Some(branch) = tag.branch {
                contents["branch"] = Value::from(branch);
            }
            (tag.name, contents)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags() -> Vec<TagSummary> {
        let tag = |name: &str, branch: Option<&str>| TagSummary {
            name: name.to_owned(),
            version: 3,
            branch: branch.map(str::to_owned),
            manifest_bytes: 99,
        };
        vec![tag("gold", None), tag("exp", Some("b"))]
    }

    #[test]
    fn the_two_dialects_get_their_own_shape() {
        let page = PageRequest::new(Some(1), None).unwrap();
        assert_eq!(
            answer(tags(), &page, true),
            json!({
                "exp": { "version": 3, "manifestSize": 99, "branch": "b" },
                "gold": { "version": 3, "manifestSize": 99 },
            })
        );
        assert_eq!(
            answer(tags(), &page, false),
            json!({
                "tags": { "exp": { "version": 3, "manifestSize": 99, "branch": "b" } },
                "page_token": "exp",
            })
        );
    }
}
