//! Between the schema a client speaks and the schema a table stores.
//!
//! Columns match by name. A nullable column that is missing is null; an extra one is an error. Only
//! lossless widening converts (`widen.rs`), and text becomes JSON (`json_column.rs`). A blob column is declared by lance's `lance.blob.v2` extension type or by
//! a binary field with the metadata `lance-encoding:blob` = `true`, and is stored as blob v2 either way;
//! afterwards plain binary values are taken for it too.

use async_recursion::async_recursion as boxed;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use lakebed_core::{Error, Limits, Result, nearest_names};
use lance_arrow::json::is_json_field;
use lance_core::datatypes::BLOB_V2_LOGICAL_TYPE;
use lance_core::is_system_column;

use crate::blob::BlobWriter;
use crate::computed::{FUNCTION_BINDINGS, check_unwritten, is_computed_key};
use crate::json_column::{check_binary, check_depth, encode, is_text};
use crate::stored_type::stored_type;
use crate::vector_aliases::is_alias_key;
use crate::widen::{Lacking, is_lossless, widen};

const EXTENSION_NAME: &str = "ARROW:extension:name";
const BLOB_EXTENSION: &str = "lance.blob.v2";
pub(crate) const BLOB_METADATA: &str = "lance-encoding:blob";
const COLUMN_NAME_BYTES_MAX: usize = 1_024;

/// Whether a client's field declares a blob column.
pub(crate) fn declares_blob(field: &Field) -> bool {
    field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == BLOB_EXTENSION)
        || (matches!(field.data_type(), DataType::LargeBinary | DataType::Binary)
            && field.metadata().get(BLOB_METADATA).is_some_and(|value| value == "true"))
}

/// The schema of a table as clients write it.
pub(crate) fn client_schema(schema: &lance_core::datatypes::Schema) -> SchemaRef {
    Arc::new(Schema::from(schema))
}

/// The schema that a new table stores for what a client sent.
///
/// # Errors
/// `InvalidArgument` naming the column that cannot be stored, or the limit that is hit.
pub fn stored_schema(sent: &Schema, limits: &Limits) -> Result<SchemaRef> {
    check_names(sent, limits)?;
    let fields: Vec<FieldRef> = sent.fields().iter().map(stored_field).collect::<Result<_>>()?;
    Ok(Arc::new(Schema::new_with_metadata(fields, sent.metadata().clone())))
}

/// The schema of a new table for what a client sent, in which no column is computed: what is copied from a
/// table with computed columns are values, and what computes them is not copied along.
///
/// # Errors
/// As [`stored_schema`].
pub(crate) fn new_table_schema(sent: &Schema, limits: &Limits) -> Result<SchemaRef> {
    let plain = |field: &FieldRef| match field.metadata().keys().any(|key| is_computed_key(key)) {
        false => Arc::clone(field),
        true => {
            let metadata = field.metadata().clone().into_iter();
            let metadata = metadata.filter(|(key, _)| !is_computed_key(key)).collect();
            Arc::new(Field::clone(field).with_metadata(metadata))
        }
    };
    let fields: Vec<FieldRef> = sent.fields().iter().map(plain).collect();
    let mut metadata = sent.metadata().clone();
    metadata.remove(FUNCTION_BINDINGS);
    metadata.retain(|key, _| !is_alias_key(key));
    stored_schema(&Schema::new_with_metadata(fields, metadata), limits)
}

fn check_names(sent: &Schema, limits: &Limits) -> Result<()> {
    if sent.fields().is_empty() {
        return Err(Error::invalid("the schema has no column"));
    }
    let columns = sent.flattened_fields().len();
    if columns > limits.columns_max {
        return Err(Error::invalid(format!(
            "the schema has {columns} columns, nested ones included; the limit columns_max is {}",
            limits.columns_max
        )));
    }
    let mut seen: HashSet<&str> = HashSet::new();
    for field in sent.fields() {
        let name = field.name();
        if name.is_empty() || name.len() > COLUMN_NAME_BYTES_MAX || name.contains(char::is_control)
        {
            let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            return Err(Error::invalid(format!("column name `{shown}` is not allowed")));
        }
        if is_system_column(name) || matches!(name.as_str(), "_distance" | "_score") {
            return Err(Error::invalid(format!("column name `{name}` is the system's")));
        }
        if !seen.insert(name) {
            return Err(Error::invalid(format!("column `{name}` is given twice")));
        }
    }
    Ok(())
}

fn stored_field(field: &FieldRef) -> Result<FieldRef> {
    if declares_blob(field) {
        blob_shape(field)?;
        let mut metadata: HashMap<String, String> = field.metadata().clone();
        metadata.remove(BLOB_METADATA);
        let blob = lance::blob_field(field.name(), field.is_nullable());
        metadata.extend(blob.metadata().clone());
        return Ok(Arc::new(blob.with_metadata(metadata)));
    }
    let data_type = stored_type(field.name(), field.data_type())?;
    Ok(Arc::new(Field::clone(field).with_data_type(data_type)))
}

/// Checks that a blob column's values have a shape that is understood.
fn blob_shape(field: &Field) -> Result<()> {
    let is_fine = match field.data_type() {
        DataType::Binary | DataType::LargeBinary => true,
        DataType::Struct(children) => children.iter().all(|child| {
            matches!(
                (child.name().as_str(), child.data_type()),
                ("data", DataType::Binary | DataType::LargeBinary | DataType::Null)
                    | ("uri", DataType::Utf8 | DataType::LargeUtf8 | DataType::Null)
                    | ("position" | "size", DataType::UInt64 | DataType::Null)
            )
        }),
        _ => false,
    };
    if is_fine {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "blob column `{}` has type {}; binary or struct<data, uri> is expected",
        field.name(),
        field.data_type()
    )))
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Take the column as it is.
    Take(usize),
    /// Widen it.
    Widen(usize),
    /// Turn binary values or references into blobs.
    Blob(usize),
    /// Turn text into JSON as it is stored.
    Json(usize),
    /// Take text of JSON as it is, once it was looked at.
    JsonText(usize),
    /// The same of JSON in lance's binary form.
    JsonBinary(usize),
    /// Fill with nulls.
    Null,
}

/// How batches of one client schema become batches of a table's schema.
#[derive(Debug, Clone)]
pub struct Conform {
    schema: SchemaRef,
    steps: Vec<Step>,
    blobs: BlobWriter,
}

impl Conform {
    /// Plans the conversion. With `partial`, columns of the table that were not sent are left out
    /// instead of filled with nulls.
    ///
    /// # Errors
    /// `InvalidArgument` naming the column and both types.
    pub(crate) fn new(
        stored: &Schema,
        sent: &Schema,
        partial: bool,
        limits: &Limits,
        blobs: BlobWriter,
    ) -> Result<Conform> {
        check_names(sent, limits)?;
        if let Some(extra) =
            sent.fields().iter().find(|field| stored.field_with_name(field.name()).is_err())
        {
            let names = stored.fields().iter().map(|field| field.name().as_str());
            let near = nearest_names(extra.name(), names);
            return Err(Error::invalid(format!(
                "column `{}` is not in the table{near}",
                extra.name()
            )));
        }
        // What a struct lacks would be taken away from rows that are there.
        let lacking = if partial { Lacking::Refused } else { Lacking::Null };
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        for field in stored.fields() {
            let step = match sent.column_with_name(field.name()) {
                None if partial => continue,
                None if field.is_nullable() => Step::Null,
                None => {
                    return Err(Error::invalid(format!(
                        "column `{}` is missing and does not allow null",
                        field.name()
                    )));
                }
                Some((at, sent)) => step_for(field, sent, at, lacking)?,
            };
            fields.push(written_field(field));
            steps.push(step);
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, stored.metadata().clone()));
        Ok(Conform { schema, steps, blobs })
    }

    /// The schema of the batches that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Converts a batch whose first row is row `first_row` of the stream.
    ///
    /// # Errors
    /// `InvalidArgument` naming column and row; `Unavailable` when a large blob cannot be stored.
    #[boxed]
    pub async fn apply(&self, batch: &RecordBatch, first_row: u64) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.steps.len());
        for (field, step) in self.schema.fields().iter().zip(&self.steps) {
            let column = match step {
                Step::Null => new_null_array(field.data_type(), batch.num_rows()),
                Step::Take(at) => batch.column(*at).clone(),
                Step::Widen(at) => widen(field, batch.column(*at))?,
                Step::JsonText(at) => {
                    check_depth(field, batch.column(*at), first_row)?;
                    batch.column(*at).clone()
                }
                Step::JsonBinary(at) => {
                    check_binary(field, batch.column(*at), first_row)?;
                    batch.column(*at).clone()
                }
                Step::Json(at) => encode(field, batch.column(*at), first_row)?,
                Step::Blob(at) => self.blobs.convert(field, batch.column(*at), first_row).await?,
            };
            check_unwritten(field, &column, first_row)?;
            if !field.is_nullable() && column.null_count() > 0 {
                let row = (0..column.len()).find(|row| column.is_null(*row)).unwrap_or(0);
                return Err(Error::invalid(format!(
                    "column `{}` row {}: null in a column of type {} that does not allow it",
                    field.name(),
                    first_row + row as u64,
                    field.data_type()
                )));
            }
            columns.push(column);
        }
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|error| {
            Error::invalid(format!("rows from {first_row} do not fit the schema: {error}"))
        })
    }
}

/// The field as it is handed to lance: blobs come in its complete logical shape, which can say the size
/// of an external blob. What is stored is the same for either shape.
pub(crate) fn written_field(stored: &FieldRef) -> FieldRef {
    match declares_blob(stored) && matches!(stored.data_type(), DataType::Struct(_)) {
        true => Arc::new(Field::clone(stored).with_data_type(BLOB_V2_LOGICAL_TYPE.clone())),
        false => stored.clone(),
    }
}

fn step_for(stored: &Field, sent: &Field, at: usize, lacking: Lacking) -> Result<Step> {
    if declares_blob(stored) {
        blob_shape(sent)?;
        return Ok(Step::Blob(at));
    }
    if is_json_field(stored) && is_text(sent) {
        return Ok(Step::Json(at));
    }
    if is_json_field(stored) && stored.data_type() == sent.data_type() {
        return Ok(Step::JsonBinary(at));
    }
    if stored.data_type() == sent.data_type() {
        // Of a new table: lance turns the text into its binary form itself.
        let is_json = stored.extension_type_name() == Some("arrow.json") && is_text(sent);
        return Ok(if is_json { Step::JsonText(at) } else { Step::Take(at) });
    }
    if is_lossless(sent.data_type(), stored.data_type(), lacking) {
        return Ok(Step::Widen(at));
    }
    Err(Error::invalid(format!(
        "column `{}` has type {}; the table stores {}, and that conversion may lose values",
        stored.name(),
        sent.data_type(),
        stored.data_type()
    )))
}

/// A short digest of a schema's names, types and nullability, to tell whether a write that is sent
/// again is the same.
pub fn schema_digest(schema: &Schema) -> String {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    for field in schema.fields() {
        hasher.update(format!(
            "{}\u{0}{}\u{0}{}\u{0}",
            field.name(),
            field.data_type(),
            field.is_nullable()
        ));
    }
    hasher.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_declare_a_blob_are_stored_alike() {
        let plain = Field::new("image", DataType::LargeBinary, true)
            .with_metadata(HashMap::from([(BLOB_METADATA.to_owned(), "true".to_owned())]));
        let extension = lance::blob_field("image", true);
        let limits = Limits::default();
        let one = stored_schema(&Schema::new(vec![plain]), &limits).unwrap();
        let two = stored_schema(&Schema::new(vec![extension]), &limits).unwrap();
        assert_eq!(one, two);
        let wrong = Field::new("image", DataType::Int32, true)
            .with_metadata(HashMap::from([(EXTENSION_NAME.to_owned(), BLOB_EXTENSION.to_owned())]));
        assert!(stored_schema(&Schema::new(vec![wrong]), &limits).is_err());
    }

    #[test]
    fn system_names_and_duplicates_are_refused() {
        let limits = Limits::default();
        for names in [vec!["_rowid"], vec!["a", "a"], vec![""], vec!["a\nb"]] {
            let fields: Vec<Field> =
                names.iter().map(|name| Field::new(*name, DataType::Int32, true)).collect();
            assert!(stored_schema(&Schema::new(fields), &limits).is_err(), "{names:?}");
        }
    }
}
