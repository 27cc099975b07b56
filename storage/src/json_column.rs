//! Columns of JSON: clients write text, lance stores its binary form.

use std::sync::Arc;

use arrow_array::builder::LargeBinaryBuilder;
use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef};
use arrow_cast::cast;
use arrow_schema::{DataType, Field};
use lakebed_core::{Error, Result};
use lance_arrow::json::encode_json;

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
    use arrow_array::StringArray;

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
        let error = encoded(300_000).unwrap_err();
        assert!(error.message().contains("row 11") && error.message().contains("deep"), "{error}");
    }
}
