//! `POST /v1/table/{id}/tags/version`: the version that a tag names.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::{Error, Subject, nearest_names};
use serde_json::{Value, json};

use super::OneTag;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn tag_version(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<OneTag>,
) -> Result<Response, ApiError> {
    let (tag, table) = (body.check(&target)?, target.table()?);
    let tags = door.service.list_tags(target.ctx(), &table).await?;
    let Some(found) = tags.iter().find(|known| known.name == tag.as_str()) else {
        let near = nearest_names(tag.as_str(), tags.iter().map(|known| known.name.as_str()));
        let message = format!("tag `{tag}` of `{table}` does not exist{near}");
        return Err(Error::not_found(message).about(Subject::Tag).into());
    };
    let mut answer = json!({ "version": found.version });
    if let Some(branch) = &found.branch {
        answer["branch"] = Value::from(branch.clone());
    }
    Ok(Json(answer).into_response())
}
