//! Where the values of columns come from: what computes them, from which columns, and as of which version.
//!
//! All of it stands in the metadata of the schema, so a version says it of itself, also in a copy of the table.

use std::collections::HashMap;

use arrow_schema::{Field, Schema};
use serde_json::Value;

use crate::computed::{FUNCTION_BINDINGS, INPUTS, KIND};
use crate::snapshot::Snapshot;

/// Where the values of one column come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// The column.
    pub column: String,
    /// `function`, `sql` or `model`.
    pub kind: String,
    /// The function with its namespaces joined by `$`, the model, or the expression.
    pub name: Option<String>,
    /// The version of the function.
    pub version: Option<u64>,
    /// The digest of the function or of the model's weights.
    pub digest: Option<String>,
    /// The columns that it is computed from.
    pub inputs: Vec<String>,
    /// The version of the table whose rows were computed last; none before the first job.
    pub source_version: Option<u64>,
    /// The job that wrote it last.
    pub job_id: Option<String>,
    /// Seconds between two jobs at least, where the column refreshes itself.
    pub refresh_seconds: Option<u64>,
}

impl Snapshot {
    /// Where the values of the columns come from that are computed, in the order of the columns.
    pub fn lineage(&self) -> Vec<Lineage> {
        let schema = self.schema();
        let bindings = functions(&schema);
        schema.fields().iter().filter_map(|field| lineage(field, &bindings)).collect()
    }
}

/// The function of each binding.
fn functions(schema: &Schema) -> HashMap<String, Value> {
    let text = schema.metadata().get(FUNCTION_BINDINGS);
    let all: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let all = all.as_ref().and_then(|all| all["bindings"].as_array()).into_iter().flatten();
    let of =
        all.filter_map(|it| Some((it["binding_id"].as_str()?.to_owned(), it["function"].clone())));
    of.collect()
}

fn lineage(field: &Field, functions: &HashMap<String, Value>) -> Option<Lineage> {
    let says = |key: &str| field.metadata().get(key).cloned();
    let number = |key: &str| says(key)?.parse().ok();
    let model = says("lakebed:model");
    let kind = says(KIND).or_else(|| model.as_ref().map(|_| "model".to_owned()))?;
    let inputs = says(INPUTS).and_then(|inputs| serde_json::from_str(&inputs).ok());
    let mut found = Lineage {
        column: field.name().clone(),
        inputs: inputs
            .or_else(|| says("lakebed:source_column").map(|it| vec![it]))
            .unwrap_or_default(),
        job_id: says("lakebed:job_id"),
        source_version: says("lakebed:job_id").and_then(|_| number("lakebed:source_version")),
        refresh_seconds: number("lakebed:auto_refresh_seconds"),
        kind,
        ..Lineage::default()
    };
    match found.kind.as_str() {
        "function" => {
            let binding = says("computed_column.function.binding_id");
            let function = binding.and_then(|id| functions.get(&id));
            found.name = function.map(named);
            found.version = function.and_then(|it| it["version"].as_str()?.parse().ok());
            found.digest =
                function.and_then(|it| it["manifest_digest"].as_str()).map(str::to_owned);
        }
        "sql" => found.name = says("computed_column.expression"),
        _ => {
            found.name = model;
            found.digest = says("lakebed:model_digest");
        }
    }
    Some(found)
}

fn named(function: &Value) -> String {
    let path = function["namespace_path"].as_array().into_iter().flatten();
    let parts: Vec<&str> = path.chain([&function["name"]]).filter_map(Value::as_str).collect();
    parts.join("$")
}
