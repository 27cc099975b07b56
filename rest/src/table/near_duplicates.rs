//! `POST /v1/table/{id}/near_duplicates`: a job that finds rows with alike signatures.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_core::Error;
use lakebed_service::{Likeness, NearDuplicates};
use serde::Deserialize;
use serde_json::json;

use super::refused;
use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NearDuplicatesBody {
    id: Option<Vec<String>>,
    signature: Option<String>,
    cluster: Option<String>,
    keep: Option<String>,
    threshold: Option<f64>,
    bands: Option<usize>,
    band_slots: Option<usize>,
}

pub(crate) async fn near_duplicates(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<NearDuplicatesBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    target.check_id(body.id.as_deref())?;
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let bands = match (body.bands, body.band_slots) {
        (Some(bands), Some(slots)) => Some((bands, slots)),
        (None, None) => None,
        _ => return Err(Error::invalid("fields `bands` and `band_slots` go together").into()),
    };
    let signature = given(body.signature);
    let command = NearDuplicates {
        signature: signature.ok_or_else(|| Error::invalid("field `signature` is missing"))?,
        cluster: given(body.cluster).unwrap_or_else(|| "cluster".to_owned()),
        keep: given(body.keep).unwrap_or_else(|| "keep".to_owned()),
        likeness: Likeness { threshold: body.threshold, bands },
    };
    let (ctx, table) = (target.ctx(), target.table()?);
    let begun = door.service.find_near_duplicates(ctx, &table, command).await;
    let job_id = begun.map_err(refused)?;
    Ok(Json(json!({ "job_id": job_id })).into_response())
}
