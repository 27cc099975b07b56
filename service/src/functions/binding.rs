//! A function bound to columns: what a client declares, and what the table's schema says of it.
//!
//! The SDKs check every binding of a table before they add rows to it, down to unknown keys, so what is
//! written here is exactly their shape (`FunctionBinding` of `lancedb::function`, version 1): the bindings of
//! a table are JSON under [`FUNCTION_BINDINGS`] in the schema's metadata, and each column that one fills says
//! so in its own metadata.

use std::collections::{BTreeMap, HashMap};

use arrow_schema::{Field, Schema};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::{FUNCTION_BINDINGS, NoteSource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::definition::Output;

/// What the whole result of a function is called.
pub(super) const WHOLE: &str = "$value";
/// The ordinal of the column that says which rows have a result.
pub(super) const ASSIGNED_ORDINAL: u32 = u32::MAX;
const FORMAT: u32 = 1;

/// What a client declares: a function, the columns that it reads and those that it fills.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    pub(super) application: Application,
    pub(super) binding_metadata_version: u32,
    pub(super) input_bindings: Vec<InputColumn>,
    pub(super) input_schema: Value,
    pub(super) output_schema: Value,
    pub(super) outputs: Vec<DeclaredOutput>,
}

/// A function with its arguments.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Application {
    pub(super) function: FunctionReference,
    pub(super) inputs: Vec<Argument>,
    pub(super) output: Output,
    /// Other names for the columns of results.
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) initialization: Option<Value>,
}

/// One version of a function, as clients name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FunctionReference {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) namespace_path: Vec<String>,
    pub(super) object_id: String,
    pub(super) location: String,
    pub(super) version: String,
    pub(super) manifest_digest: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Argument {
    pub(super) parameter: String,
    pub(super) kind: String,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputColumn {
    pub(super) parameter: String,
    pub(super) field_path: String,
    pub(super) arrow_type: String,
    pub(super) nullable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeclaredOutput {
    pub(super) result_field: String,
    pub(super) output_name: String,
    pub(super) output_ordinal: u32,
}

/// All bindings of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Bindings {
    version: u32,
    bindings: Vec<Binding>,
}

/// A function bound to columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Binding {
    pub(super) binding_id: String,
    pub(super) function: FunctionReference,
    pub(super) inputs: Vec<BoundInput>,
    pub(super) outputs: Vec<BoundOutput>,
    pub(super) input_schema: Value,
    pub(super) output_schema: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) assignment: Option<Assignment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) initialization: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BoundInput {
    pub(super) parameter: String,
    pub(super) field_id: i32,
    pub(super) field_path: String,
    pub(super) arrow_type: String,
    pub(super) nullable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BoundOutput {
    pub(super) result_field: String,
    pub(super) output_name: String,
    pub(super) output_field_id: i32,
    pub(super) output_ordinal: u32,
    pub(super) arrow_type: String,
    pub(super) nullable: bool,
}

/// The column that says which rows have a result, where all columns of a result may be null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) output_name: String,
    pub(super) output_field_id: i32,
}

impl Binding {
    /// The same with the ids that its columns have.
    fn with_ids(&self, source: &NoteSource<'_>) -> Result<Binding> {
        let id_of = |name: &str| {
            let id = source.field_ids.get(name).copied();
            id.ok_or_else(|| Error::not_found(format!("column `{name}` does not exist")))
        };
        let mut bound = self.clone();
        for input in &mut bound.inputs {
            input.field_id = id_of(&input.field_path)?;
        }
        for output in &mut bound.outputs {
            output.output_field_id = id_of(&output.output_name)?;
        }
        if let Some(assignment) = &mut bound.assignment {
            assignment.output_field_id = id_of(&assignment.output_name)?;
        }
        Ok(bound)
    }

    /// The bindings of a table with this one more.
    pub(super) fn noted(&self, source: &NoteSource<'_>) -> Result<String> {
        let mut all = match source.before {
            Some(text) => parse(text)?,
            None => Bindings { version: FORMAT, bindings: Vec::new() },
        };
        all.bindings.push(self.with_ids(source)?);
        serde_json::to_string(&all)
            .map_err(|error| Error::internal("write bindings").with_source(error))
    }

    /// What a column says of the binding.
    pub(super) fn metadata(&self, ordinal: u32) -> HashMap<String, String> {
        let inputs: Vec<&str> = self.inputs.iter().map(|input| input.field_path.as_str()).collect();
        [
            ("computed_column", "true".to_owned()),
            ("computed_column.kind", "function".to_owned()),
            ("computed_column.function.binding_id", self.binding_id.clone()),
            ("computed_column.function.output_ordinal", ordinal.to_string()),
            ("computed_column.inputs", json!(inputs).to_string()),
            ("computed_refresh.source_signature", "{}".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// Whether SQL keeps a column computed.
pub(super) fn is_of_sql(field: &Field) -> bool {
    field.metadata().get("computed_column.kind").is_some_and(|kind| kind == "sql")
}

/// The binding that fills a column.
///
/// # Errors
/// `InvalidArgument` where nothing computes the column, `NotImplemented` where something else does.
pub(super) fn binding_of(schema: &Schema, field: &Field) -> Result<Binding> {
    let says = |key: &str| field.metadata().get(key).map(String::as_str);
    let name = field.name();
    match says("computed_column.kind") {
        Some("function") => {}
        Some(kind) => {
            let message = format!("column `{name}` is computed by `{kind}`: this is not built");
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
        None => {
            return Err(Error::invalid(format!("column `{name}` is not a computed column")));
        }
    }
    let id = says("computed_column.function.binding_id");
    let all = match schema.metadata().get(FUNCTION_BINDINGS) {
        Some(text) => parse(text)?.bindings,
        None => Vec::new(),
    };
    let found = all.into_iter().find(|binding| Some(binding.binding_id.as_str()) == id);
    found.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("column `{name}` has a binding that is not there"))
    })
}

fn parse(text: &str) -> Result<Bindings> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "the function bindings cannot be read");
    let all: Bindings = serde_json::from_str(text).map_err(|error| corrupt().with_source(error))?;
    match all.version {
        FORMAT => Ok(all),
        version => Err(Error::new(
            ErrorKind::NotImplemented,
            format!("function bindings of version {version} are not known"),
        )),
    }
}
