//! `POST /v1/table/{id}/resident/create`: begins to build, and keeps the index from now on.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::DistanceType;
use serde::Deserialize;
use serde_json::json;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::table::refused;
use crate::target::Target;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateResident {
    id: Option<Vec<String>>,
    branch: Option<String>,
    column: String,
    distance_type: Option<DistanceType>,
}

pub(crate) async fn create_resident(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<CreateResident>,
) -> Result<Response, ApiError> {
    target.params(&["branch"])?;
    target.check_id(body.id.as_deref())?;
    let branch = target.branch(body.branch.as_deref())?.map(str::to_owned);
    let (service, table) = (&door.service, target.table()?);
    let made = service.create_resident_index(
        target.ctx(),
        &table,
        branch,
        &body.column,
        body.distance_type,
    );
    made.await.map_err(refused)?;
    Ok(Json(json!({})).into_response())
}
