//! What is known of models: those that are built into the worker package, and those that workers offer.

use lakebed_core::{Error, Result, nearest_names};

/// What a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelInput {
    /// UTF-8 text.
    Text,
    /// The bytes of a picture.
    Picture,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// `sha256:` and the digest of its weights; unknown until a worker offers it.
    pub digest: Option<String>,
    /// Numbers of a vector.
    pub dimensions: u32,
    /// What it reads.
    pub input: ModelInput,
    /// Workers that offer it now.
    pub workers: usize,
}

/// Numbers of a vector at most; more is no model, but a mistake.
pub const DIMENSIONS_MAX: u32 = 65_536;

/// The models that `lakebed-worker` has without being given any.
pub(crate) fn built_in() -> Vec<ModelInfo> {
    let model = |name: &str, dimensions, input| ModelInfo {
        name: name.to_owned(),
        digest: None,
        dimensions,
        input,
        workers: 0,
    };
    vec![
        model("all-MiniLM-L6-v2", 384, ModelInput::Text),
        model("efficientnet-lite0", 1_280, ModelInput::Picture),
    ]
}

/// The model of that name.
///
/// # Errors
/// `NotFound` naming those that there are.
pub(crate) fn named(models: &[ModelInfo], name: &str) -> Result<ModelInfo> {
    models.iter().find(|model| model.name == name).cloned().ok_or_else(|| {
        let names = || models.iter().map(|model| model.name.as_str());
        let near = nearest_names(name, names());
        let known: Vec<&str> = names().collect();
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Error::not_found(format!(
            "model `{shown}` is not known{near}; built in and offered by workers: {}",
            known.join(", ")
        ))
    })
}
