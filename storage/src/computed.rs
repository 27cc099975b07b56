//! Columns that are computed: who may write them, and what hangs on them.
//!
//! LanceDB's convention is kept, so that its clients know the columns: a field says `computed_column` in its
//! metadata, and the schema has the bindings of functions under `lancedb::function_bindings`. What is in a
//! binding is for the use cases; here it matters which columns it reads and fills.
//!
//! What always holds: nobody but a refresh writes values into such a column, and no binding names a column
//! that is gone.

use std::collections::BTreeSet;

use arrow_array::{Array, ArrayRef};
use arrow_schema::Field;
use lakebed_core::{Error, ErrorKind, Result};
use lance_core::datatypes::Schema;
use serde_json::Value;

/// Where the bindings of functions are, in the metadata of a schema.
pub const FUNCTION_BINDINGS: &str = "lancedb::function_bindings";
const COMPUTED: &str = "computed_column";
/// What computes the column: `function` or `sql`.
pub(crate) const KIND: &str = "computed_column.kind";
/// The columns that it is computed from, as a JSON array.
pub(crate) const INPUTS: &str = "computed_column.inputs";
const PREFIXES: [&str; 2] = [COMPUTED, "computed_refresh"];

/// Whether a key of a field's metadata says how the column is computed.
pub(crate) fn is_computed_key(key: &str) -> bool {
    PREFIXES.iter().any(|prefix| {
        key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether a column is computed.
pub(crate) fn is_computed(field: &Field) -> bool {
    field.metadata().get(COMPUTED).is_some_and(|value| value == "true")
}

/// Refuses values of a computed column; nulls are what it has before it is filled.
pub(crate) fn check_unwritten(field: &Field, values: &ArrayRef, first_row: u64) -> Result<()> {
    if !is_computed(field) || values.null_count() == values.len() {
        return Ok(());
    }
    let row = (0..values.len()).find(|row| values.is_valid(*row)).unwrap_or(0);
    Err(Error::invalid(format!(
        "column `{}` row {}: the column is computed and takes no values",
        field.name(),
        first_row + row as u64
    )))
}

/// A binding as far as columns go.
struct Bound {
    reads: Vec<String>,
    fills: Vec<String>,
    /// The column that the server made for it.
    assignment: Option<String>,
}

/// The bindings of functions, in their order.
fn bound(schema: &Schema) -> Vec<Bound> {
    let text = schema.metadata.get(FUNCTION_BINDINGS);
    let Some(Ok(Value::Object(all))) = text.map(|text| serde_json::from_str(text)) else {
        return Vec::new();
    };
    let bindings = all.get("bindings").and_then(Value::as_array);
    bindings.into_iter().flatten().map(of_json).collect()
}

/// The columns that SQL keeps computed, each as a binding of its own.
fn bound_by_sql(schema: &Schema) -> Vec<Bound> {
    let of_sql = schema
        .fields
        .iter()
        .filter(|field| field.metadata.get(KIND).is_some_and(|kind| kind == "sql"));
    let bound = of_sql.map(|field| {
        let inputs = field.metadata.get(INPUTS).map(String::as_str).unwrap_or_default();
        let reads = serde_json::from_str(inputs).unwrap_or_default();
        Bound { reads, fills: vec![field.name.clone()], assignment: None }
    });
    bound.collect()
}

fn of_json(binding: &Value) -> Bound {
    let names = |list: &str, key: &str| {
        let items = binding[list].as_array().into_iter().flatten();
        items.filter_map(|item| item[key].as_str()).map(str::to_owned).collect()
    };
    Bound {
        reads: names("inputs", "field_path"),
        fills: names("outputs", "output_name"),
        assignment: binding["assignment"]["output_name"].as_str().map(str::to_owned),
    }
}

/// Refuses a new name or type for a column that a computed one reads, and for a computed one.
pub(crate) fn check_alterable(schema: &Schema, path: &str) -> Result<()> {
    for binding in bound(schema).into_iter().chain(bound_by_sql(schema)) {
        let fills = binding.fills.iter().chain(&binding.assignment);
        if let Some(by) =
            binding.fills.first().filter(|_| binding.reads.iter().any(|it| it == path))
        {
            return Err(read_by(path, by));
        }
        if fills.into_iter().any(|it| it == path) {
            let message = format!("another name or type for computed column `{path}`: not built");
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
    }
    Ok(())
}

fn read_by(column: &str, by: &str) -> Error {
    Error::invalid(format!(
        "column `{column}` is read by computed column `{by}`; drop that column first"
    ))
}

/// What has to go beside the columns that are dropped, and the bindings that are left where some go too.
///
/// # Errors
/// `InvalidArgument` where a column is read by one that stays, or is filled together with one that stays.
pub(crate) fn dropped_with(
    schema: &Schema,
    dropped: &[&str],
) -> Result<(Vec<String>, Option<Option<String>>)> {
    let gone: BTreeSet<&str> = dropped.iter().copied().collect();
    let mut also = Vec::new();
    let mut kept = Vec::new();
    for (at, binding) in bound(schema).iter().enumerate() {
        let left: Vec<&str> =
            binding.fills.iter().map(String::as_str).filter(|it| !gone.contains(it)).collect();
        if left.is_empty() {
            also.extend(binding.assignment.clone().filter(|it| !gone.contains(it.as_str())));
            continue;
        }
        let names_one = |name: &&String| gone.contains(name.as_str());
        if let Some(read) = binding.reads.iter().find(names_one) {
            return Err(read_by(read, left[0]));
        }
        if left.len() < binding.fills.len() || binding.assignment.iter().any(|it| names_one(&it)) {
            return Err(Error::invalid(format!(
                "one call of a function fills the columns that are dropped and `{}`; the same request has \
                 to name {}",
                left[0],
                binding.fills.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
            )));
        }
        kept.push(at);
    }
    for column in
        bound_by_sql(schema).iter().filter(|column| !gone.contains(column.fills[0].as_str()))
    {
        if let Some(read) = column.reads.iter().find(|read| gone.contains(read.as_str())) {
            return Err(read_by(read, &column.fills[0]));
        }
    }
    Ok((also, without(schema, &kept)?))
}

/// The text of the bindings that are left; nothing where all are, `Some(None)` where none is.
fn without(schema: &Schema, kept: &[usize]) -> Result<Option<Option<String>>> {
    let Some(text) = schema.metadata.get(FUNCTION_BINDINGS) else { return Ok(None) };
    let corrupt = || Error::new(ErrorKind::Corrupt, "the function bindings cannot be read");
    let mut all: Value = serde_json::from_str(text).map_err(|_| corrupt())?;
    let bindings = all["bindings"].as_array_mut().ok_or_else(corrupt)?;
    if bindings.len() == kept.len() {
        return Ok(None);
    }
    let mut at = 0;
    bindings.retain(|_| {
        at += 1;
        kept.contains(&(at - 1))
    });
    match bindings.is_empty() {
        true => Ok(Some(None)),
        false => Ok(Some(Some(all.to_string()))),
    }
}
