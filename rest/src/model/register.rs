//! `POST /v1/models/{model}/register`: a version of a model, whose files are in the lake or uploaded.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lakebed_service::{
    ModelInput, ModelNotes, ModelPooling, ModelSettings, RegisterFile, RegisterModel,
};
use serde::Deserialize;

use crate::Door;
use crate::body::StrictBody;
use crate::error::ApiError;
use crate::target::Target;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RegisterBody {
    files: Vec<RegisterFile>,
    task: Option<String>,
    licence: Option<String>,
    input: Option<ModelInput>,
    dimensions: Option<u32>,
    graph: Option<String>,
    tokenizer: Option<String>,
    output: Option<String>,
    pooling: Option<ModelPooling>,
    normalize: Option<bool>,
    tokens_max: Option<u32>,
    side: Option<u32>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

pub(crate) async fn register_model(
    State(door): State<Door>,
    target: Target,
    StrictBody(body): StrictBody<RegisterBody>,
) -> Result<Response, ApiError> {
    target.params(&[])?;
    let RegisterBody {
        files,
        task,
        licence,
        input,
        dimensions,
        graph,
        tokenizer,
        output,
        pooling,
        normalize,
        tokens_max,
        side,
        mean,
        std,
    } = body;
    let settings = ModelSettings {
        input,
        dimensions,
        graph,
        tokenizer,
        output,
        pooling,
        normalize: normalize.unwrap_or_default(),
        tokens_max,
        side,
        mean,
        std,
    };
    let command = RegisterModel { files, settings, notes: ModelNotes { task, licence } };
    let model = target.path("model")?;
    let registered = door.service.register_model(target.ctx(), model, command).await?;
    Ok(Json(registered.json()).into_response())
}
