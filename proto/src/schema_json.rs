//! Schemas as JSON, in the two dialects of the LanceDB protocol.
//!
//! Why two: the SDKs read the names of types that lance itself writes (`string`, `double`,
//! `timestamp:us:-`), clients of the Lance Namespace specification read Arrow's (`utf8`, `float64`,
//! `timestamp`). A name of one dialect breaks a client of the other, so whoever answers has to know whom.
//! Both are written here without lance, so that the doors need not know it; names are those of
//! `lance::arrow::json` and of the specification's `JsonArrowSchema`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};
use lakebed_core::{Error, Result};
use serde_json::{Map, Value, json};

/// Who is to read a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The LanceDB SDKs.
    Sdk,
    /// Clients of the Lance Namespace specification.
    Spec,
}

/// A schema as JSON.
///
/// # Errors
/// `InvalidArgument` naming the column whose type the dialect has no name for.
pub fn schema_to_json(schema: &Schema, dialect: Dialect) -> Result<Value> {
    let fields = schema.fields().iter().map(|field| {
        field_to_json(field, dialect).map_err(|what| {
            Error::invalid(format!(
                "column `{}` has a type that clients of this protocol cannot read: {what}",
                field.name()
            ))
        })
    });
    let mut json = json!({ "fields": fields.collect::<Result<Vec<Value>>>()? });
    put_metadata(&mut json, schema.metadata());
    Ok(json)
}

fn put_metadata(json: &mut Value, metadata: &HashMap<String, String>) {
    if !metadata.is_empty() {
        let entries = metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.clone())));
        json["metadata"] = Value::Object(entries.collect::<Map<_, _>>());
    }
}

fn field_to_json(field: &Field, dialect: Dialect) -> Result<Value, String> {
    let mut json = json!({
        "name": field.name(),
        "type": type_to_json(field.data_type(), dialect)?,
        "nullable": field.is_nullable(),
    });
    put_metadata(&mut json, field.metadata());
    Ok(json)
}

/// A type as JSON; the error is the type that the dialect has no name for.
fn type_to_json(data_type: &DataType, dialect: Dialect) -> Result<Value, String> {
    if let (DataType::Dictionary(_, value), Dialect::Spec) = (data_type, dialect) {
        return type_to_json(value, dialect);
    }
    let mut json = json!({ "type": type_name(data_type, dialect)? });
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => {
            json["fields"] = json!([field_to_json(item, dialect)?]);
        }
        DataType::FixedSizeList(item, length) => {
            json["fields"] = json!([field_to_json(item, dialect)?]);
            json["length"] = json!(length);
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| field_to_json(field, dialect));
            json["fields"] = Value::Array(fields.collect::<Result<_, String>>()?);
        }
        DataType::Map(entries, _) if dialect == Dialect::Spec => {
            json["fields"] = json!([field_to_json(entries, dialect)?]);
        }
        DataType::FixedSizeBinary(length) => json["length"] = json!(length),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)
            if dialect == Dialect::Spec =>
        {
            json["length"] = json!(i64::from(*precision) * 1_000 + i64::from(*scale));
        }
        _ => {}
    }
    Ok(json)
}

fn type_name(data_type: &DataType, dialect: Dialect) -> Result<String, String> {
    let name = match (data_type, dialect) {
        (DataType::Null, _) => "null",
        (DataType::Boolean, _) => "bool",
        (DataType::Int8, _) => "int8",
        (DataType::Int16, _) => "int16",
        (DataType::Int32, _) => "int32",
        (DataType::Int64, _) => "int64",
        (DataType::UInt8, _) => "uint8",
        (DataType::UInt16, _) => "uint16",
        (DataType::UInt32, _) => "uint32",
        (DataType::UInt64, _) => "uint64",
        (DataType::Binary, _) => "binary",
        (DataType::LargeBinary, _) => "large_binary",
        (DataType::FixedSizeBinary(_), _) => "fixed_size_binary",
        (DataType::List(_), _) => "list",
        (DataType::LargeList(_), _) => "large_list",
        (DataType::FixedSizeList(..), _) => "fixed_size_list",
        (DataType::Struct(_), _) => "struct",
        (DataType::Float16, Dialect::Sdk) => "halffloat",
        (DataType::Float32, Dialect::Sdk) => "float",
        (DataType::Float64, Dialect::Sdk) => "double",
        (DataType::Utf8, Dialect::Sdk) => "string",
        (DataType::LargeUtf8, Dialect::Sdk) => "large_string",
        (DataType::Date32, Dialect::Sdk) => "date32:day",
        (DataType::Date64, Dialect::Sdk) => "date64:ms",
        (DataType::Float16, Dialect::Spec) => "float16",
        (DataType::Float32, Dialect::Spec) => "float32",
        (DataType::Float64, Dialect::Spec) => "float64",
        // Functions of SQL answer in views of text and bytes, which are told as what they hold.
        (DataType::Utf8 | DataType::Utf8View, Dialect::Spec) => "utf8",
        (DataType::BinaryView, Dialect::Spec) => "binary",
        (DataType::LargeUtf8, Dialect::Spec) => "large_utf8",
        (DataType::Date32, Dialect::Spec) => "date32",
        (DataType::Date64, Dialect::Spec) => "date64",
        (DataType::Time32(_), Dialect::Spec) => "time32",
        (DataType::Time64(_), Dialect::Spec) => "time64",
        (DataType::Timestamp(..), Dialect::Spec) => "timestamp",
        (DataType::Duration(_), Dialect::Spec) => "duration",
        (DataType::Decimal128(..), Dialect::Spec) => "decimal128",
        (DataType::Decimal256(..), Dialect::Spec) => "decimal256",
        (DataType::Map(_, false), Dialect::Spec) => "map",
        (data_type, Dialect::Sdk) => return sdk_parameterized(data_type),
        (data_type, Dialect::Spec) => return Err(data_type.to_string()),
    };
    Ok(name.to_owned())
}

/// The SDK's names of types that carry parameters.
fn sdk_parameterized(data_type: &DataType) -> Result<String, String> {
    Ok(match data_type {
        DataType::Time32(unit) => format!("time32:{}", unit_name(unit)),
        DataType::Time64(unit) => format!("time64:{}", unit_name(unit)),
        DataType::Duration(unit) => format!("duration:{}", unit_name(unit)),
        DataType::Timestamp(unit, zone) => {
            format!("timestamp:{}:{}", unit_name(unit), zone.as_deref().unwrap_or("-"))
        }
        DataType::Decimal128(precision, scale) => format!("decimal:128:{precision}:{scale}"),
        DataType::Decimal256(precision, scale) => format!("decimal:256:{precision}:{scale}"),
        DataType::Dictionary(index, value) => {
            let (index, value) = (type_name(index, Dialect::Sdk)?, type_name(value, Dialect::Sdk)?);
            // The name is cut at its colons when it is read, so it must come back as it was.
            let name = format!("dict:{value}:{index}:false");
            match parameterized_type(&name).as_ref() == Some(data_type) {
                true => name,
                false => return Err(data_type.to_string()),
            }
        }
        other => return Err(other.to_string()),
    })
}

fn unit_name(unit: &TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// A type from JSON: a name, or an object `{"type", "fields"?, "length"?}`, with the names of either
/// dialect.
///
/// # Errors
/// `InvalidArgument` naming what is not understood.
pub fn type_from_json(json: &Value) -> Result<DataType> {
    let (name, fields, length) = match json {
        Value::String(name) => (name.as_str(), None, None),
        Value::Object(object) => {
            if let Some(key) =
                object.keys().find(|key| !matches!(key.as_str(), "type" | "fields" | "length"))
            {
                return Err(Error::invalid(format!("a type has no field `{key}`")));
            }
            let name = object.get("type").and_then(Value::as_str);
            let name = name.ok_or_else(|| Error::invalid("a type has no name in `type`"))?;
            let fields = object.get("fields").filter(|fields| !fields.is_null());
            (name, fields, object.get("length").and_then(Value::as_i64))
        }
        _ => return Err(Error::invalid("a type is a name or an object with `type`")),
    };
    if let Some(plain) = plain_type(name) {
        return Ok(plain);
    }
    let length = || {
        let length = length.filter(|length| *length >= 0).and_then(|n| i32::try_from(n).ok());
        length.ok_or_else(|| Error::invalid(format!("type `{name}` needs a `length`")))
    };
    match name {
        "list" => Ok(DataType::List(only_field(name, fields)?)),
        "large_list" => Ok(DataType::LargeList(only_field(name, fields)?)),
        "fixed_size_list" => Ok(DataType::FixedSizeList(only_field(name, fields)?, length()?)),
        "fixed_size_binary" => Ok(DataType::FixedSizeBinary(length()?)),
        "struct" => Ok(DataType::Struct(all_fields(name, fields)?.into())),
        "decimal128" | "decimal256" => decimal_from(name, i64::from(length()?)),
        name => parameterized_type(name)
            .ok_or_else(|| Error::invalid(format!("type `{}` is not known", shown(name)))),
    }
}

fn plain_type(name: &str) -> Option<DataType> {
    Some(match name {
        "null" => DataType::Null,
        "bool" | "boolean" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "halffloat" | "float16" => DataType::Float16,
        "float" | "float32" => DataType::Float32,
        "double" | "float64" => DataType::Float64,
        "string" | "utf8" => DataType::Utf8,
        "large_string" | "large_utf8" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "large_binary" => DataType::LargeBinary,
        "date32:day" | "date32" => DataType::Date32,
        "date64:ms" | "date64" => DataType::Date64,
        // The specification's names say no unit; its own reader takes microseconds.
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "duration" => DataType::Duration(TimeUnit::Microsecond),
        _ => return None,
    })
}

fn parameterized_type(name: &str) -> Option<DataType> {
    let (kind, rest) = name.split_once(':')?;
    Some(match kind {
        "time32" => match unit_from(rest)? {
            unit @ (TimeUnit::Second | TimeUnit::Millisecond) => DataType::Time32(unit),
            _ => return None,
        },
        "time64" => match unit_from(rest)? {
            unit @ (TimeUnit::Microsecond | TimeUnit::Nanosecond) => DataType::Time64(unit),
            _ => return None,
        },
        "duration" => DataType::Duration(unit_from(rest)?),
        "timestamp" => {
            // A zone such as `+08:00` has a colon of its own.
            let (unit, zone) = rest.split_once(':')?;
            let zone = Some(zone).filter(|zone| *zone != "-").map(Arc::from);
            DataType::Timestamp(unit_from(unit)?, zone)
        }
        "decimal" => {
            let (bits, rest) = rest.split_once(':')?;
            let (precision, scale) = rest.split_once(':')?;
            let (precision, scale) = (precision.parse().ok()?, scale.parse().ok()?);
            match bits {
                "128" => DataType::Decimal128(precision, scale),
                "256" => DataType::Decimal256(precision, scale),
                _ => return None,
            }
        }
        "dict" => {
            let (value, rest) = rest.split_once(':')?;
            let (index, _) = rest.split_once(':')?;
            let index = plain_type(index).filter(DataType::is_integer)?;
            DataType::Dictionary(Box::new(index), Box::new(plain_type(value)?))
        }
        _ => return None,
    })
}

fn unit_from(name: &str) -> Option<TimeUnit> {
    [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond]
        .into_iter()
        .find(|unit| unit_name(unit) == name)
}

/// The specification's form of a decimal: precision · 1000 + scale, where the scale may be negative.
fn decimal_from(name: &str, encoded: i64) -> Result<DataType> {
    let precision = (encoded + 128) / 1_000;
    let scale = encoded - precision * 1_000;
    match (name, u8::try_from(precision), i8::try_from(scale)) {
        ("decimal128", Ok(precision @ 1..=38), Ok(scale)) => {
            Ok(DataType::Decimal128(precision, scale))
        }
        ("decimal256", Ok(precision @ 1..=76), Ok(scale)) => {
            Ok(DataType::Decimal256(precision, scale))
        }
        _ => Err(Error::invalid(format!("type `{name}` cannot have `length` {encoded}"))),
    }
}

fn only_field(of: &str, fields: Option<&Value>) -> Result<FieldRef> {
    let mut fields = all_fields(of, fields)?;
    match (fields.pop(), fields.is_empty()) {
        (Some(field), true) => Ok(field),
        _ => Err(Error::invalid(format!("type `{of}` needs exactly one field in `fields`"))),
    }
}

fn all_fields(of: &str, fields: Option<&Value>) -> Result<Vec<FieldRef>> {
    let fields = fields.and_then(Value::as_array);
    let fields = fields.ok_or_else(|| Error::invalid(format!("type `{of}` needs `fields`")))?;
    fields.iter().map(field_from_json).collect()
}

fn field_from_json(json: &Value) -> Result<FieldRef> {
    let missing = |what: &str| Error::invalid(format!("a field of a type has no `{what}`"));
    let name = json.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
    let data_type = type_from_json(json.get("type").ok_or_else(|| missing("type"))?)?;
    let nullable = json.get("nullable").and_then(Value::as_bool).unwrap_or(true);
    let metadata: HashMap<String, String> = match json.get("metadata") {
        None | Some(Value::Null) => HashMap::new(),
        Some(metadata) => serde_json::from_value(metadata.clone())
            .map_err(|_| Error::invalid("`metadata` of a field is no map of texts"))?,
    };
    Ok(Arc::new(Field::new(name, data_type, nullable).with_metadata(metadata)))
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(data_type: DataType) -> FieldRef {
        Arc::new(Field::new("item", data_type, true))
    }

    /// A type, and its names in both dialects; absent where a dialect has none.
    fn table() -> Vec<(DataType, Option<&'static str>, Option<&'static str>)> {
        let zone = |zone: &str| Some(Arc::from(zone));
        let dictionary = |value| DataType::Dictionary(Box::new(DataType::Int16), Box::new(value));
        vec![
            (DataType::Null, Some("null"), Some("null")),
            (DataType::Boolean, Some("bool"), Some("bool")),
            (DataType::UInt64, Some("uint64"), Some("uint64")),
            (DataType::Utf8, Some("string"), Some("utf8")),
            (DataType::LargeUtf8, Some("large_string"), Some("large_utf8")),
            (DataType::Binary, Some("binary"), Some("binary")),
            (DataType::LargeBinary, Some("large_binary"), Some("large_binary")),
            (DataType::Float16, Some("halffloat"), Some("float16")),
            (DataType::Float32, Some("float"), Some("float32")),
            (DataType::Float64, Some("double"), Some("float64")),
            (DataType::Date32, Some("date32:day"), Some("date32")),
            (DataType::Date64, Some("date64:ms"), Some("date64")),
            (DataType::Time32(TimeUnit::Millisecond), Some("time32:ms"), Some("time32")),
            (DataType::Time64(TimeUnit::Nanosecond), Some("time64:ns"), Some("time64")),
            (DataType::Duration(TimeUnit::Nanosecond), Some("duration:ns"), Some("duration")),
            (
                DataType::Timestamp(TimeUnit::Microsecond, None),
                Some("timestamp:us:-"),
                Some("timestamp"),
            ),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, zone("UTC")),
                Some("timestamp:ns:UTC"),
                Some("timestamp"),
            ),
            (
                DataType::Timestamp(TimeUnit::Microsecond, zone("+08:00")),
                Some("timestamp:us:+08:00"),
                Some("timestamp"),
            ),
            (DataType::Decimal128(10, 2), Some("decimal:128:10:2"), Some("decimal128")),
            (DataType::Decimal256(50, -3), Some("decimal:256:50:-3"), Some("decimal256")),
            (dictionary(DataType::Utf8), Some("dict:string:int16:false"), Some("utf8")),
            (dictionary(DataType::Date32), None, Some("date32")),
            (DataType::FixedSizeBinary(16), Some("fixed_size_binary"), Some("fixed_size_binary")),
            (DataType::List(item(DataType::Utf8)), Some("list"), Some("list")),
            (
                DataType::FixedSizeList(item(DataType::Float32), 3),
                Some("fixed_size_list"),
                Some("fixed_size_list"),
            ),
            (DataType::Utf8View, None, Some("utf8")),
            (DataType::ListView(item(DataType::Utf8)), None, None),
        ]
    }

    #[test]
    fn every_type_has_the_names_of_both_dialects() {
        for (data_type, sdk, spec) in table() {
            for (dialect, name) in [(Dialect::Sdk, sdk), (Dialect::Spec, spec)] {
                let json = type_to_json(&data_type, dialect);
                let found = json.as_ref().ok().map(|json| json["type"].as_str().unwrap());
                assert_eq!(found, name, "{data_type} {dialect:?}");
            }
        }
        let schema = Schema::new(vec![Field::new("v", DataType::Utf8View, true)]);
        let error = schema_to_json(&schema, Dialect::Sdk).unwrap_err();
        assert!(error.message().contains("`v`"), "{error}");
    }

    #[test]
    fn a_type_comes_back_from_the_sdks_names() {
        for (data_type, sdk, spec) in table() {
            if sdk.is_some() {
                let json = type_to_json(&data_type, Dialect::Sdk).unwrap();
                assert_eq!(type_from_json(&json).unwrap(), data_type);
            }
            let is_whole = !matches!(data_type, DataType::Dictionary(..) | DataType::Utf8View)
                && !data_type.is_temporal();
            if spec.is_some() && is_whole {
                let json = type_to_json(&data_type, Dialect::Spec).unwrap();
                assert_eq!(type_from_json(&json).unwrap(), data_type);
            }
        }
        assert_eq!(type_from_json(&json!("float32")).unwrap(), DataType::Float32);
        for bad in [
            json!(3),
            json!("flaot"),
            json!({ "type": "list" }),
            json!({ "type": "fixed_size_list", "fields": [{ "name": "item", "type": "float" }] }),
            json!({ "type": "int8", "size": 3 }),
            json!("time32:ns"),
            json!("decimal:64:1:1"),
        ] {
            assert!(type_from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_is_kept_word_for_word() {
        let metadata =
            HashMap::from([("ARROW:extension:name".to_owned(), "lance.blob.v2".to_owned())]);
        let blob = DataType::Struct(vec![Field::new("data", DataType::LargeBinary, true)].into());
        let field = Field::new("picture", blob, true).with_metadata(metadata);
        let json = schema_to_json(&Schema::new(vec![field]), Dialect::Sdk).unwrap();
        let field = &json["fields"][0];
        assert_eq!(field["metadata"]["ARROW:extension:name"], "lance.blob.v2");
        assert_eq!(field["type"]["fields"][0]["type"]["type"], "large_binary");
        assert!(json.get("metadata").is_none());
    }
}
