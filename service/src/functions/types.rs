//! Types as functions name them: a spelling of its own for the common ones, JSON for the others.

use std::sync::Arc;

use arrow_schema::{DataType, Field};
use lakebed_core::{Error, Result};
use lakebed_proto::schema_json::type_from_json;

/// How deep types may be nested.
const DEPTH_MAX: usize = 16;
/// What the SDKs call a blob.
pub(super) const BLOB: &str = "blob_v2";

/// A type such as `float32`, `list<utf8>`, `fixed_size_list<float32, 384>`, or the JSON of one; blobs are
/// bytes.
///
/// # Errors
/// `InvalidArgument` naming what is not understood.
pub(super) fn parse(text: &str) -> Result<DataType> {
    let text = text.trim();
    if text.starts_with('{') {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|_| unknown(text))?;
        return type_from_json(&json);
    }
    parse_within(text, DEPTH_MAX)
}

fn parse_within(text: &str, depth: usize) -> Result<DataType> {
    let text = text.trim();
    if let Some(plain) = plain(text) {
        return Ok(plain);
    }
    let inner = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('>');
    if depth == 0 {
        return Err(unknown(text));
    }
    let item = |text: &str| {
        let item = parse_within(text, depth - 1)?;
        Ok::<_, Error>(Arc::new(Field::new("item", item, false)))
    };
    if let Some(inner) = inner("list<") {
        return Ok(DataType::List(item(inner)?));
    }
    if let Some(inner) = inner("large_list<") {
        return Ok(DataType::LargeList(item(inner)?));
    }
    if let Some(inner) = inner("fixed_size_list<") {
        let (of, length) = inner.rsplit_once(',').ok_or_else(|| unknown(text))?;
        let length = length.trim().parse::<i32>().ok().filter(|length| *length > 0);
        return Ok(DataType::FixedSizeList(item(of)?, length.ok_or_else(|| unknown(text))?));
    }
    Err(unknown(text))
}

fn plain(name: &str) -> Option<DataType> {
    Some(match name {
        "bool" | "boolean" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" | "halffloat" => DataType::Float16,
        "float32" | "float" => DataType::Float32,
        "float64" | "double" => DataType::Float64,
        "utf8" | "string" => DataType::Utf8,
        "large_utf8" | "large_string" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "large_binary" | BLOB => DataType::LargeBinary,
        "date32" => DataType::Date32,
        "date64" => DataType::Date64,
        _ => return None,
    })
}

fn unknown(text: &str) -> Error {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    Error::invalid(format!("`{shown}` is no type that functions have"))
}

/// Whether values of a column can be given to a parameter as they are: the same type but for the names and
/// the nullability inside of lists, and for the width of offsets.
pub(super) fn fits(column: &DataType, parameter: &DataType) -> bool {
    use DataType as T;
    match (column, parameter) {
        (T::Utf8 | T::LargeUtf8, T::Utf8 | T::LargeUtf8)
        | (T::Binary | T::LargeBinary, T::Binary | T::LargeBinary) => true,
        (T::Dictionary(_, value), parameter) => fits(value, parameter),
        (T::List(a) | T::LargeList(a), T::List(b) | T::LargeList(b)) => {
            fits(a.data_type(), b.data_type())
        }
        (T::FixedSizeList(a, n), T::FixedSizeList(b, m)) => {
            n == m && fits(a.data_type(), b.data_type())
        }
        (T::Struct(a), T::Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && fits(a.data_type(), b.data_type()))
        }
        (column, parameter) => column == parameter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_understood_or_refused() {
        for (text, shown) in [
            ("utf8", "Utf8"),
            ("list<float32>", "List(non-null Float32)"),
            ("fixed_size_list<float32, 384>", "FixedSizeList(384 x non-null Float32)"),
            (
                "list<fixed_size_list<float32, 3>>",
                "List(non-null FixedSizeList(3 x non-null Float32))",
            ),
            ("blob_v2", "LargeBinary"),
            (
                r#"{"type":"list","fields":[{"name":"item","nullable":true,"type":{"type":"float32"}}]}"#,
                "List(Float32)",
            ),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown, "{text}");
        }
        let deep = format!("{}int8{}", "list<".repeat(1_000), ">".repeat(1_000));
        for text in [
            "",
            "list<>",
            "list<float32",
            "fixed_size_list<float32>[3]",
            "fixed_size_list<float32>",
            "fixed_size_list<float32, 0>",
            "fixed_size_list<float32, x>",
            "map<utf8, int32>",
            "timestamp[us]",
            "struct<a: int32>",
            "{",
            &deep,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn vectors_fit_whatever_their_items_are_called() {
        let vector = parse("fixed_size_list<float32, 3>").unwrap();
        let stored = DataType::new_fixed_size_list(DataType::Float32, 3, true);
        assert!(fits(&stored, &vector));
        assert!(!fits(&DataType::Int64, &DataType::Utf8));
    }
}
