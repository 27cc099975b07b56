//! `POST /v1/table/{id}/update_field_metadata`: what is noted about columns.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use lakebed_core::Error;
use lakebed_service::FieldMetadata;
use serde::Deserialize;
use serde_json::json;

use super::{refused, versioned};
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UpdateFieldMetadata {
    id: Option<Vec<String>>,
    branch: Option<String>,
    updates: Vec<Update>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Update {
    path: String,
    /// A key with null is taken out.
    metadata: BTreeMap<String, Option<String>>,
    replace: Option<bool>,
}

pub(crate) async fn update_field_metadata(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<UpdateFieldMetadata>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?;
    if body.updates.is_empty() {
        return Err(Error::invalid("field `updates` is missing or empty").into());
    }
    let changes: Vec<FieldMetadata> = body
        .updates
        .into_iter()
        .map(|update| FieldMetadata {
            path: update.path,
            entries: update.metadata,
            replace: update.replace.unwrap_or(false),
        })
        .collect();
    let version = door
        .service
        .update_field_metadata(target.ctx(), &target.table()?, branch, &changes)
        .await
        .map_err(refused)?;
    Ok(versioned(json!({ "version": version }), version))
}
