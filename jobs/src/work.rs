//! What a job does with rows: a model over one column, or a function over several.

use std::collections::HashMap;

use arrow_schema::{DataType, Field, Schema};
use lakebed_core::{Error, Result, Subject};
use lakebed_storage::sha256_text;
use serde::{Deserialize, Serialize};

use crate::parts::vector_type;
use crate::registered::RegisteredModel;
use crate::scheduler::ModelKey;

/// The name under which a model reads its column and gives its values.
const MODEL_INPUT: &str = "input";
const MODEL_RESULT: &str = "value";

/// What computes the values of columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Work {
    /// A function that a user registered.
    Function(FunctionWork),
    /// A model that workers have: one column in, one of vectors out.
    Model(ModelWork),
}

/// A model over one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelWork {
    /// The column that is read.
    pub input: String,
    /// The column that is written.
    pub output: String,
    /// The model.
    pub model: String,
    /// Numbers of its vectors.
    pub dimensions: u32,
    /// Which version of it, where it is a registered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<RegisteredModel>,
}

/// A function over some columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionWork {
    /// Which function.
    pub function: FunctionKey,
    /// The columns that are read, each with the parameter that gets it.
    pub inputs: Vec<InputColumn>,
    /// The columns that are written, each with the field of the result that it gets.
    pub outputs: Vec<OutputColumn>,
    /// The constants that its instances are made with: a row as an Arrow stream, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<String>,
    /// What a worker has to have.
    pub interpreter: Interpreter,
}

/// One version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FunctionKey {
    /// Its database.
    pub database: String,
    /// Its id as tables have theirs: namespaces and name joined with `$`.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// `sha256:` and the digest of all that decides its results.
    pub digest: String,
}

/// What runs a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interpreter {
    /// The version of Python, such as `3.11`.
    pub python_version: String,
    /// Whether it needs a GPU.
    #[serde(default)]
    pub gpu: bool,
}

impl FunctionWork {
    /// What tells instances apart: the function, and the constants that they are made with.
    pub fn digest(&self) -> String {
        let initialization = self.initialization.as_deref().unwrap_or_default();
        let both = format!("{}\n{initialization}", self.function.digest);
        sha256_text(both.as_bytes())
    }
}

/// What errors call it.
impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Model(work) => write!(f, "model {}", work.model),
            Work::Function(work) => write!(f, "function {}", work.function.id),
        }
    }
}

impl std::fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.database, self.id, self.version)
    }
}

impl Interpreter {
    /// How workers and jobs name it to the scheduler, beside the models.
    pub(crate) fn key(&self) -> ModelKey {
        let name = match self.gpu {
            true => "interpreter:python+gpu",
            false => "interpreter:python",
        };
        ModelKey { name: name.to_owned(), digest: Some(self.python_version.clone()) }
    }
}

impl std::fmt::Display for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gpu = if self.gpu { " and a GPU" } else { "" };
        write!(f, "a worker with Python {}{gpu}", self.python_version)
    }
}

/// A column that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputColumn {
    /// The column.
    pub column: String,
    /// What the worker knows it as.
    pub parameter: String,
}

/// A column that is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputColumn {
    /// The column.
    pub column: String,
    /// What it gets.
    pub result: ResultSource,
}

/// What of a result a column gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultSource {
    /// A field of that name, as the worker calls it.
    Field(String),
    /// All these fields, as one struct.
    Struct(Vec<String>),
    /// True, where there is a result.
    Assigned,
}

impl Work {
    /// What a worker has to have for it.
    pub(crate) fn need(&self) -> ModelKey {
        match self {
            Work::Function(work) => work.interpreter.key(),
            Work::Model(work) => match &work.registered {
                Some(registered) => registered.key(),
                None => ModelKey { name: work.model.clone(), digest: None },
            },
        }
    }

    /// The columns that are read.
    pub(crate) fn inputs(&self) -> Vec<InputColumn> {
        match self {
            Work::Function(work) => work.inputs.clone(),
            Work::Model(work) => {
                vec![InputColumn { column: work.input.clone(), parameter: MODEL_INPUT.to_owned() }]
            }
        }
    }

    /// The columns that are written.
    pub(crate) fn outputs(&self) -> Vec<OutputColumn> {
        match self {
            Work::Function(work) => work.outputs.clone(),
            Work::Model(work) => vec![OutputColumn {
                column: work.output.clone(),
                result: ResultSource::Field(MODEL_RESULT.to_owned()),
            }],
        }
    }

    /// The names of the columns that are read.
    pub(crate) fn input_names(&self) -> Vec<String> {
        self.inputs().into_iter().map(|input| input.column).collect()
    }

    /// The names of the columns that are written.
    pub(crate) fn output_names(&self) -> Vec<String> {
        self.outputs().into_iter().map(|output| output.column).collect()
    }

    /// What results of it look like, for columns as `schema` has them.
    ///
    /// # Errors
    /// `NotFound` for a column that is gone.
    pub(crate) fn results(&self, schema: &Schema) -> Result<Vec<ResultColumn>> {
        if let Work::Model(work) = self {
            return Ok(vec![ResultColumn {
                result: ResultSource::Field(MODEL_RESULT.to_owned()),
                column: work.output.clone(),
                data_type: vector_type(work.dimensions),
                is_finite: true,
            }]);
        }
        let result = |output: OutputColumn| {
            let field = schema.field_with_name(&output.column).map_err(|_| {
                Error::not_found(format!("column `{}` does not exist", output.column))
                    .about(Subject::Column)
            })?;
            Ok(ResultColumn {
                result: output.result,
                column: output.column,
                data_type: field.data_type().clone(),
                // An index could not live with others.
                is_finite: is_vector(field),
            })
        };
        self.outputs().into_iter().map(result).collect()
    }
}

fn is_vector(field: &Field) -> bool {
    match field.data_type() {
        DataType::FixedSizeList(item, _) => item.data_type().is_floating(),
        _ => false,
    }
}

/// A column of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResultColumn {
    /// Where it comes from.
    pub(crate) result: ResultSource,
    /// The column that it fills.
    pub(crate) column: String,
    /// Its type.
    pub(crate) data_type: DataType,
    /// Whether a value with a NaN or an infinity is an error.
    pub(crate) is_finite: bool,
}

/// Where a column says which version's rows were computed last.
pub const SOURCE_VERSION: &str = "lakebed:source_version";
/// Where a column says that it refreshes itself, and how many seconds lie between two jobs at least.
pub const AUTO_REFRESH_SECONDS: &str = "lakebed:auto_refresh_seconds";
/// Where a column says which job wrote it last.
pub(crate) const JOB_ID: &str = "lakebed:job_id";

/// What is noted on the columns that a work fills.
pub(crate) fn origin(work: &Work, digest: Option<&str>) -> HashMap<String, String> {
    let mut notes: Vec<(&str, String)> = Vec::new();
    match work {
        Work::Model(work) => {
            notes.push(("lakebed:model", work.model.clone()));
            notes.push(("lakebed:dimensions", work.dimensions.to_string()));
            notes.push(("lakebed:source_column", work.input.clone()));
            match (&work.registered, digest) {
                (Some(registered), _) => {
                    notes.push(("lakebed:model_digest", registered.digest.clone()));
                    notes.push(("lakebed:model_version", registered.version.to_string()));
                }
                (None, Some(digest)) => notes.push(("lakebed:model_digest", digest.to_owned())),
                (None, None) => {}
            }
        }
        Work::Function(work) => {
            let inputs: Vec<&str> = work.inputs.iter().map(|input| input.column.as_str()).collect();
            notes.push(("lakebed:function", work.function.id.clone()));
            notes.push(("lakebed:function_version", work.function.version.to_string()));
            notes.push(("lakebed:function_digest", work.function.digest.clone()));
            notes.push(("lakebed:source_columns", inputs.join(",")));
        }
    }
    notes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
