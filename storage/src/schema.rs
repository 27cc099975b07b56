//! Between the schema a client speaks and the schema a table stores.
//!
//! Columns match by name. A nullable column that is missing is null; an extra one is an error. Only
//! lossless widening converts. A blob column is declared by lance's `lance.blob.v2` extension type or by
//! a binary field with the metadata `lance-encoding:blob` = `true`, and is stored as blob v2 either way;
//! afterwards plain binary values are taken for it too.

use async_recursion::async_recursion as boxed;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use lakebed_core::{Error, Limits, Result, nearest_names};
use lance_core::datatypes::BLOB_V2_LOGICAL_TYPE;
use lance_core::is_system_column;

use crate::blob::BlobWriter;
use crate::stored_type::stored_type;

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
                Some((at, sent)) => step_for(field, sent, at)?,
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
                Step::Blob(at) => self.blobs.convert(field, batch.column(*at), first_row).await?,
            };
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

fn step_for(stored: &Field, sent: &Field, at: usize) -> Result<Step> {
    if declares_blob(stored) {
        blob_shape(sent)?;
        return Ok(Step::Blob(at));
    }
    if stored.data_type() == sent.data_type() {
        return Ok(Step::Take(at));
    }
    if is_lossless(sent.data_type(), stored.data_type()) {
        return Ok(Step::Widen(at));
    }
    Err(Error::invalid(format!(
        "column `{}` has type {}; the table stores {}, and that conversion may lose values",
        stored.name(),
        sent.data_type(),
        stored.data_type()
    )))
}

fn widen(field: &Field, column: &ArrayRef) -> Result<ArrayRef> {
    // Not `safe`: a value that does not fit must be an error, never a null.
    let options = CastOptions { safe: false, ..Default::default() };
    cast_with_options(column, field.data_type(), &options).map_err(|error| {
        Error::invalid(format!(
            "column `{}` of type {} cannot become {}: {error}",
            field.name(),
            column.data_type(),
            field.data_type()
        ))
    })
}

/// Whether every value of `from` has an equal value in `to`.
fn is_lossless(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    if from == to {
        return true;
    }
    match (from, to) {
        (Null, _) => true,
        (Dictionary(_, value), to) => is_lossless(value, to),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary) => true,
        (FixedSizeBinary(_), Binary | LargeBinary) => true,
        (Float16, Float32 | Float64) | (Float32, Float64) => true,
        (Date32, Date64) => true,
        (Timestamp(a, zone_a), Timestamp(b, zone_b)) => {
            zone_a == zone_b && unit_rank(a) <= unit_rank(b)
        }
        (Time32(a), Time32(b) | Time64(b))
        | (Time64(a), Time64(b))
        | (Duration(a), Duration(b)) => unit_rank(a) <= unit_rank(b),
        (Decimal128(p1, s1), Decimal128(p2, s2) | Decimal256(p2, s2))
        | (Decimal256(p1, s1), Decimal256(p2, s2)) => {
            s2 >= s1 && i16::from(*p2) - i16::from(*s2) >= i16::from(*p1) - i16::from(*s1)
        }
        (List(a), List(b) | LargeList(b)) | (LargeList(a), LargeList(b) | List(b)) => {
            is_lossless(a.data_type(), b.data_type())
        }
        (FixedSizeList(a, n), FixedSizeList(b, m)) => {
            n == m && is_lossless(a.data_type(), b.data_type())
        }
        (FixedSizeList(a, _), List(b) | LargeList(b)) => is_lossless(a.data_type(), b.data_type()),
        (List(a) | LargeList(a), FixedSizeList(b, _)) => {
            // Fails, naming the column, on a list of another length.
            is_lossless(a.data_type(), b.data_type())
        }
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b.iter())
                    .all(|(a, b)| a.name() == b.name() && is_lossless(a.data_type(), b.data_type()))
        }
        (from, to) => integer_fits(from, to),
    }
}

fn integer_fits(from: &DataType, to: &DataType) -> bool {
    // (is signed, bits); floats hold integers of up to their mantissa.
    let integer = |data_type: &DataType| match data_type {
        DataType::Int8 => Some((true, 8)),
        DataType::Int16 => Some((true, 16)),
        DataType::Int32 => Some((true, 32)),
        DataType::Int64 => Some((true, 64)),
        DataType::UInt8 => Some((false, 8)),
        DataType::UInt16 => Some((false, 16)),
        DataType::UInt32 => Some((false, 32)),
        DataType::UInt64 => Some((false, 64)),
        _ => None,
    };
    let Some((from_signed, from_bits)) = integer(from) else { return false };
    match to {
        DataType::Float32 => from_bits <= 16,
        DataType::Float64 => from_bits <= 32,
        to => match integer(to) {
            Some((true, bits)) if !from_signed => from_bits < bits,
            Some((false, _)) if from_signed => false,
            Some((_, bits)) => from_bits <= bits,
            None => false,
        },
    }
}

fn unit_rank(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
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
    fn widening_is_lossless_or_refused() {
        use DataType::*;
        let list = |item| List(Arc::new(Field::new("item", item, true)));
        for (from, to) in [
            (Int8, Int64),
            (UInt32, Int64),
            (Int32, Float64),
            (Float32, Float64),
            (Utf8View, Utf8),
            (Dictionary(Box::new(Int32), Box::new(Utf8)), Utf8),
            (list(Int32), list(Int64)),
            (Timestamp(TimeUnit::Second, None), Timestamp(TimeUnit::Nanosecond, None)),
        ] {
            assert!(is_lossless(&from, &to), "{from} to {to}");
        }
        for (from, to) in [
            (Int64, Int32),
            (Int32, UInt64),
            (UInt64, Int64),
            (Int64, Float64),
            (Int32, Float32),
            (Float64, Float32),
            (Utf8, Int32),
            (list(Int64), list(Int32)),
            (Timestamp(TimeUnit::Nanosecond, None), Timestamp(TimeUnit::Second, None)),
            (Timestamp(TimeUnit::Second, None), Timestamp(TimeUnit::Second, Some("UTC".into()))),
            (Boolean, Int8),
        ] {
            assert!(!is_lossless(&from, &to), "{from} to {to}");
        }
    }

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
