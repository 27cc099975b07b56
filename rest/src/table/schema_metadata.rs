//! `POST /v1/table/{id}/schema_metadata/update`: what is noted about the schema, replaced as a whole.
//!
//! Only clients of the specification call it; body and answer are the bare map.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;

use super::versioned;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

pub(crate) async fn replace_schema_metadata(
    State(door): State<Door>,
    target: Target,
    StrictBody(metadata): StrictBody<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    let branch = target.branch(None)?;
    let (now, version) = door
        .service
        .replace_schema_metadata(target.ctx(), &target.table()?, branch, &metadata)
        .await?;
    Ok(versioned(now, version))
}
