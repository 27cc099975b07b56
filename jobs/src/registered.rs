//! Models that users registered: what is declared of them, and what a job or a search needs of one.
//!
//! Storage keeps files and two values of JSON with a version; here is what those values mean. A model of which
//! input, dimensions and a graph are known is one that workers run; any other is only kept.

use lakebed_core::{Error, ErrorKind, ModelAt, ModelRef, Result};
use lakebed_proto::worker::v1;
use lakebed_storage::{ModelFile, ModelVersion, StoredModel};
use serde::{Deserialize, Serialize};

use crate::models::{DIMENSIONS_MAX, ModelInfo, ModelInput};
use crate::query::Question;
use crate::runtime::ColumnJobs;
use crate::scheduler::ModelKey;
use crate::sync::from_wire;
use crate::work::Work;

/// How a worker says that it runs models as [`ModelSettings`] declares them.
pub(crate) const RUNNER: &str = "onnx-1";
const TOKENIZER: &str = "tokenizer.json";
const GRAPH_ENDING: &str = ".onnx";
const TOKENS_MAX: u32 = 1 << 20;
const SIDE_MAX: u32 = 8_192;

/// What decides the results of a model beside its files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// What it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<ModelInput>,
    /// Numbers of a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// The file with its graph; the only one that ends in `.onnx` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    /// Of a model of texts: the file that splits them into tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The output of the graph that has the vectors; its first when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How the vectors of tokens become one, where the graph gives one for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether vectors are scaled to length 1.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub normalize: bool,
    /// Tokens of a text that are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_max: Option<u32>,
    /// Of a model of pictures: width and height of what it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<u32>,
    /// What is subtracted from red, green and blue between 0 and 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// What they are divided by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
}

/// How the vectors of tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean over the tokens of the text.
    Mean,
    /// That of the first token.
    Cls,
}

/// What is said of a model and decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelNotes {
    /// What it is for, such as `embedding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Under which terms it may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// One version of a model that workers run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// The number of the version.
    pub version: u64,
    /// `sha256:` and the digest of all that decides its results.
    pub digest: String,
}

impl ModelSettings {
    /// Fills in what the files say by themselves, and checks the rest.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not fit.
    pub fn completed(mut self, files: &[ModelFile]) -> Result<ModelSettings> {
        let has = |path: &str| files.iter().any(|file| file.path == path);
        let Some(input) = self.input else {
            return match self == ModelSettings::default() {
                true => Ok(self),
                false => Err(Error::invalid("`input` is missing: `text` or `picture`")),
            };
        };
        match self.dimensions {
            Some(1..=DIMENSIONS_MAX) => {}
            Some(other) => {
                let message =
                    format!("`dimensions` is {other}; 1 to {DIMENSIONS_MAX} are possible");
                return Err(Error::invalid(message));
            }
            None => return Err(Error::invalid("`dimensions` is missing: numbers of a vector")),
        }
        let graphs: Vec<&str> = files
            .iter()
            .map(|it| it.path.as_str())
            .filter(|it| it.ends_with(GRAPH_ENDING))
            .collect();
        match (&self.graph, graphs.as_slice()) {
            (Some(graph), _) if has(graph) => {}
            (Some(graph), _) => {
                return Err(Error::invalid(format!(
                    "`graph` is `{graph}`, which is no file of it"
                )));
            }
            (None, [only]) => self.graph = Some((*only).to_owned()),
            (None, found) => {
                let count = found.len();
                let message =
                    format!("`graph` is missing, and {count} files end in `{GRAPH_ENDING}`");
                return Err(Error::invalid(message));
            }
        }
        let foreign = match input {
            ModelInput::Text => {
                let tokenizer = self.tokenizer.get_or_insert_with(|| TOKENIZER.to_owned());
                if !has(tokenizer) {
                    let message = format!("a model of texts needs `{tokenizer}` among its files");
                    return Err(Error::invalid(message));
                }
                self.side.is_some() || self.mean.is_some() || self.std.is_some()
            }
            ModelInput::Picture => {
                self.tokenizer.is_some() || self.tokens_max.is_some() || self.pooling.is_some()
            }
        };
        if foreign {
            let message = "`side`, `mean` and `std` are of models of pictures; `tokenizer`, `tokens_max` and \
                           `pooling` of those of texts";
            return Err(Error::invalid(message));
        }
        if !self.tokens_max.is_none_or(|tokens| (1..=TOKENS_MAX).contains(&tokens)) {
            return Err(Error::invalid(format!("`tokens_max` is not from 1 to {TOKENS_MAX}")));
        }
        if !self.side.is_none_or(|side| (1..=SIDE_MAX).contains(&side)) {
            return Err(Error::invalid(format!("`side` is not from 1 to {SIDE_MAX}")));
        }
        if self.std.is_some_and(|std| std.contains(&0.0)) {
            return Err(Error::invalid("`std` has a 0"));
        }
        Ok(self)
    }

    /// As it was kept with a version.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be read.
    pub fn of(version: &ModelVersion) -> Result<ModelSettings> {
        serde_json::from_value(version.settings.clone()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "what is declared of a model cannot be read")
                .with_source(error)
        })
    }
}

impl RegisteredModel {
    /// How jobs ask the scheduler for a worker that runs it.
    pub(crate) fn key(&self) -> ModelKey {
        runner_key(RUNNER)
    }
}

/// How workers and jobs name to the scheduler what runs registered models.
pub(crate) fn runner_key(runner: &str) -> ModelKey {
    ModelKey { name: "runner".to_owned(), digest: Some(runner.to_owned()) }
}

/// The number of the version that is meant.
///
/// # Errors
/// `NotFound` when there is no such version or tag.
pub fn number_of(model: &StoredModel, at: &ModelAt) -> Result<u64> {
    match at {
        ModelAt::Version(number) => model.version(*number).map(|_| *number),
        ModelAt::Tag(tag) => model.tagged(tag.as_str()),
        ModelAt::Newest => match model.newest() {
            Some((number, _)) => Ok(number),
            None => Err(Error::internal("a model without a version")),
        },
    }
}

impl ColumnJobs {
    /// The version of a registered model that a text names, and what is known of it.
    ///
    /// # Errors
    /// `NotFound` naming what there is, `InvalidArgument` where workers cannot run it.
    pub(crate) async fn registered(&self, text: &str) -> Result<(RegisteredModel, ModelInfo)> {
        let wanted = ModelRef::parse(text)?;
        let model = self.lake.model(wanted.name.as_str()).await?;
        let number = number_of(&model, &wanted.at)?;
        let version = model.version(number)?;
        let ModelSettings { input: Some(input), dimensions: Some(dimensions), .. } =
            ModelSettings::of(version)?
        else {
            return Err(Error::invalid(format!(
                "model {}@{number} was registered without `input` and `dimensions`, so workers cannot run it",
                model.name
            )));
        };
        let (name, digest) = (model.name.clone(), version.digest.clone());
        let info = ModelInfo {
            name: name.clone(),
            digest: Some(digest.clone()),
            dimensions,
            input,
            workers: 0,
        };
        Ok((RegisteredModel { name, version: number, digest }, info))
    }

    /// The version of a registered model that has a digest.
    pub(crate) async fn registered_as(
        &self,
        name: &str,
        digest: &str,
    ) -> Result<Option<RegisteredModel>> {
        let model = match ModelRef::parse(name) {
            Ok(wanted) => self.lake.model(wanted.name.as_str()).await,
            Err(_) => return Ok(None),
        };
        match model {
            Ok(model) => {
                let found = model.versions.iter().find(|(_, version)| version.digest == digest);
                Ok(found.map(|(number, version)| RegisteredModel {
                    name: model.name.clone(),
                    version: *number,
                    digest: version.digest.clone(),
                }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The registered model that an attempt is to run.
    ///
    /// # Errors
    /// `Conflict` when the attempt does not hold its task, `InvalidArgument` when it runs none.
    pub fn model_of(&self, attempt: &v1::AttemptId) -> Result<RegisteredModel> {
        let attempt = from_wire(Some(attempt))?;
        if let Some(Question::Embed { registered: Some(model), .. }) = self.question(&attempt.job) {
            return Ok(model);
        }
        self.held(&attempt)?;
        let run = self.find(&attempt.job).ok_or_else(|| Error::internal("a task without job"))?;
        let registered = match &run.spec.work {
            Work::Model(work) => work.registered.clone(),
            Work::Function(_) => None,
        };
        registered.ok_or_else(|| Error::invalid(format!("{attempt} runs no registered model")))
    }

    /// How many workers that are attached run registered models.
    pub fn runners(&self) -> usize {
        let key = runner_key(RUNNER);
        let workers = self.workers();
        workers.values().filter(|it| it.offers.iter().any(|it| key.is_met_by(it))).count()
    }
}
