//! Columns of JSON: clients write text, lance stores its binary form.

use std::sync::Arc;

use arrow_array::builder::LargeBinaryBuilder;
use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt as _;
use lakebed_core::{Error, Result};
pub use lance_arrow::json::is_json_field;
use lance_arrow::json::{
    convert_lance_json_to_arrow, encode_json, is_arrow_json_field, json_field,
};

use crate::scan::BatchStream;

/// How deep JSON may be nested: lance's reader and writer call themselves for each level, and a stack that
/// overflows ends the process.
const DEPTH_MAX: usize = 128;

/// Whether a client's column is text, declared as JSON or not.
pub(crate) fn is_text(sent: &Field) -> bool {
    matches!(sent.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Text as it is stored in a column of JSON; `first_row` is the number of its first row in the stream.
///
/// # Errors
/// `InvalidArgument` naming column and row of what is no JSON.
pub(crate) fn encode(field: &Field, text: &ArrayRef, first_row: u64) -> Result<ArrayRef> {
    check_depth(field, text, first_row)?;
    let text = plain(text)?;
    let text = text.as_string::<i64>();
    let mut stored = LargeBinaryBuilder::with_capacity(text.len(), text.values().len());
    for (row, value) in text.iter().enumerate() {
        match value {
            None => stored.append_null(),
            Some(value) => stored.append_value(encode_json(value).map_err(|error| {
                let (name, row) = (field.name(), first_row + row as u64);
                Error::invalid(format!("column `{name}` row {row}: this is no JSON: {error}"))
            })?),
        }
    }
    Ok(Arc::new(stored.finish()))
}

/// A batch of rows that lance took by their ids, which shows JSON as text, as a scan shows it.
///
/// # Errors
/// `Internal` for text that is no JSON.
pub(crate) fn text_as_stored(batch: RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| is_arrow_json_field(field)) {
        return Ok(batch);
    }
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !is_arrow_json_field(field) {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let stored = encode(field, column, 0);
        columns.push(stored.map_err(|error| Error::internal(error.message().to_owned()))?);
        fields.push(Arc::new(json_field(field.name(), field.is_nullable())));
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns)
        .map_err(|error| Error::internal("JSON of rows that were taken").with_source(error))
}

/// Checks how deep texts of JSON are nested; `first_row` is the number of the first row in the stream.
///
/// # Errors
/// `InvalidArgument` naming column and row.
pub(crate) fn check_depth(field: &Field, text: &ArrayRef, first_row: u64) -> Result<()> {
    let text = plain(text)?;
    let mut values = text.as_string::<i64>().iter();
    match values.position(|value| value.is_some_and(|value| depth(value) > DEPTH_MAX)) {
        None => Ok(()),
        Some(row) => {
            let (name, row) = (field.name(), first_row + row as u64);
            Err(Error::invalid(format!(
                "column `{name}` row {row}: JSON is nested more than {DEPTH_MAX} deep"
            )))
        }
    }
}

/// As [`check_depth`], of JSON in the binary form of lance (JSONB of Databend).
///
/// # Errors
/// `InvalidArgument` naming column and row, also of what has not that form.
pub(crate) fn check_binary(field: &Field, column: &ArrayRef, first_row: u64) -> Result<()> {
    let Some(values) = column.as_binary_opt::<i64>() else {
        return Err(Error::internal("JSON is stored as something else than long binary"));
    };
    match values.iter().position(|value| value.is_some_and(|value| !is_shallow(value))) {
        None => Ok(()),
        Some(row) => Err(Error::invalid(format!(
            "column `{}` row {}: this is no binary form of JSON that is nested {DEPTH_MAX} deep at most",
            field.name(),
            first_row + row as u64
        ))),
    }
}

/// A batch whose columns of JSON are text, declared as `arrow.json`.
///
/// # Errors
/// `Internal` for values that are nested deeper than what Lakebed writes.
pub fn json_as_text(batch: &RecordBatch) -> Result<RecordBatch> {
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if is_json_field(field) {
            check_binary(field, column, 0)
                .map_err(|error| Error::internal(error.message().to_owned()))?;
        }
    }
    convert_lance_json_to_arrow(batch)
        .map_err(|error| Error::internal("show JSON as text").with_source(error))
}

/// Rows as clients see them: a scan of lance shows JSON as text, other ways to rows do not.
///
/// # Errors
/// `Internal` when the schema cannot be shown.
pub fn json_shown(schema: SchemaRef, batches: BatchStream) -> Result<(SchemaRef, BatchStream)> {
    if !schema.fields().iter().any(|field| is_json_field(field)) {
        return Ok((schema, batches));
    }
    let shown = json_as_text(&RecordBatch::new_empty(schema))?.schema();
    Ok((shown, batches.map(|batch| json_as_text(&batch?)).boxed()))
}

/// Whether bytes have the binary form of JSON, and are not nested too deep. A container is a header of four
/// bytes, type and number of its values; an entry of four bytes, type and length, for each key of an object
/// and for each value; and these, one after the other (`lance_jsonb`, `src/lib.rs`).
fn is_shallow(bytes: &[u8]) -> bool {
    let mut left: Vec<(&[u8], usize)> = vec![(bytes, 1)];
    while let Some((container, depth)) = left.pop() {
        let Some(inside) = containers_in(container) else { return false };
        if depth >= DEPTH_MAX && !inside.is_empty() {
            return false;
        }
        left.extend(inside.into_iter().map(|inside| (inside, depth + 1)));
    }
    true
}

/// The containers among the values of one; nothing where its parts do not fit.
fn containers_in(container: &[u8]) -> Option<Vec<&[u8]>> {
    let word = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let header = word(container)?;
    let count = usize::try_from(header & 0x1FFF_FFFF).ok()?;
    let entries = match header & 0xE000_0000 {
        0x8000_0000 => count,
        0x4000_0000 => count.checked_mul(2)?,
        0x2000_0000 => 1,
        _ => return None,
    };
    let values_at = entries.checked_mul(4)?.checked_add(4)?;
    let mut rest = container.get(values_at..)?;
    let mut found = Vec::new();
    for entry in container.get(4..values_at)?.chunks_exact(4) {
        let entry = word(entry)?;
        let (value, after) = rest.split_at_checked(usize::try_from(entry & 0x0FFF_FFFF).ok()?)?;
        rest = after;
        match entry & 0xF000_0000 {
            0x5000_0000 => found.push(value),
            // A place in the stead of a length, which lance does not write.
            kind if kind & 0x8000_0000 != 0 => return None,
            _ => {}
        }
    }
    Some(found)
}

fn plain(text: &ArrayRef) -> Result<ArrayRef> {
    cast(text, &DataType::LargeUtf8)
        .map_err(|error| Error::internal("read text").with_source(error))
}

/// How deep a text of JSON is nested; never below the real depth.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut is_string, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            b'[' | b'{' if !is_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use arrow_array::{LargeBinaryArray, StringArray};

    use super::*;

    #[test]
    fn nesting_is_bounded() {
        assert_eq!(depth(r#"{"a": [1, {"b": "[[[\"[["}], "c": []}"#), 3);
        let field = Field::new("j", DataType::LargeBinary, true);
        let encoded = |levels: usize| {
            let text = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
            let text: ArrayRef = Arc::new(StringArray::from(vec!["1".to_owned(), text]));
            encode(&field, &text, 10)
        };
        assert_eq!(encoded(DEPTH_MAX).unwrap().len(), 2);
        let binary = encoded(DEPTH_MAX).unwrap();
        check_binary(&field, &binary, 0).unwrap();
        let error = encoded(300_000).unwrap_err();
        assert!(error.message().contains("row 11") && error.message().contains("deep"), "{error}");
    }

    #[test]
    fn the_binary_form_is_looked_at_as_well() {
        let field = Field::new("j", DataType::LargeBinary, true);
        let check = |bytes: &[u8]| {
            let column: ArrayRef = Arc::new(LargeBinaryArray::from(vec![None, Some(bytes)]));
            check_binary(&field, &column, 0)
        };
        for text in ["1", "null", r#""a""#, "[]", "{}", r#"{"a": [1, {"b": "c"}], "d": []}"#] {
            check(&encode_json(text).unwrap()).unwrap();
        }
        let nested = |levels: u32| {
            let level = |at| [0x8000_0001_u32, 0x5000_0000 | (4 + 8 * (levels - 2 - at))];
            let words = (0..levels - 1).flat_map(level).chain([0x8000_0000]);
            words.flat_map(u32::to_be_bytes).collect::<Vec<u8>>()
        };
        check(&nested(128)).unwrap();
        for bad in [nested(129), nested(300_000), Vec::new(), vec![0x80, 0, 0, 9], b"text".to_vec()]
        {
            let error = check(&bad).unwrap_err();
            assert!(error.message().contains("row 1"), "{error}");
        }
    }
}
