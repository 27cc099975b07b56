//! What is known of models: those that are built into the worker package, and those that workers offer.

use lakebed_core::{Error, nearest_names};

/// What a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// Whether a worker brings a model of that name by itself.
pub fn is_built_in(name: &str) -> bool {
    built_in().iter().any(|model| model.name == name)
}

/// The error of a name that is neither built in, nor offered by a worker, nor registered.
pub(crate) fn unknown(models: &[ModelInfo], registered: &[String], name: &str) -> Error {
    let offered = models.iter().map(|model| model.name.as_str());
    let names: Vec<&str> = offered.chain(registered.iter().map(String::as_str)).collect();
    let near = nearest_names(name, names.iter().copied());
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Error::not_found(format!(
        "model `{shown}` is not known{near}; built in, offered by workers and registered: {}",
        names.join(", ")
    ))
}
