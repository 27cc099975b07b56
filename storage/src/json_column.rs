//! Columns of JSON: clients write text, lance stores its binary form.

use std::sync::Arc;

use arrow_array::builder::LargeBinaryBuilder;
use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef};
use arrow_cast::cast;
use arrow_schema::{DataType, Field};
use lakebed_core::{Error, Result};
use lance_arrow::json::encode_json;

/// Whether a client's column is text, declared as JSON or not.
pub(crate) fn is_text(sent: &Field) -> bool {
    matches!(sent.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Text as it is stored in a column of JSON; `first_row` is the number of its first row in the stream.
///
/// # Errors
/// `InvalidArgument` naming column and row of what is no JSON.
pub(crate) fn encode(field: &Field, text: &ArrayRef, first_row: u64) -> Result<ArrayRef> {
    let text = cast(text, &DataType::LargeUtf8)
        .map_err(|error| Error::internal("read text").with_source(error))?;
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
