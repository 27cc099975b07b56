//! Which types a column may have, at any depth, and what each is stored as.
//!
//! Why at any depth: lance 14 panics while it writes some nested types (lists of fixed length whose items
//! vary in length), and the LanceDB SDKs cannot open a table that has a map or a view anywhere.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use lakebed_core::{Error, Result};

use crate::schema::declares_blob;

/// The type that a column of `data_type` is stored as.
///
/// # Errors
/// `InvalidArgument` naming the column and the type within it that cannot be stored.
pub(crate) fn stored_type(column: &str, data_type: &DataType) -> Result<DataType> {
    stored(column, data_type, false)
}

fn stored(column: &str, data_type: &DataType, in_list: bool) -> Result<DataType> {
    let refused = |why: &str| {
        Error::invalid(format!(
            "column `{column}` has type {data_type}, which cannot be stored{why}"
        ))
    };
    Ok(match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Map(..)
        | DataType::RunEndEncoded(..)
        | DataType::Union(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Interval(_) => return Err(refused("")),
        DataType::List(item) => DataType::List(child(column, item, true)?),
        DataType::LargeList(item) => DataType::LargeList(child(column, item, true)?),
        DataType::FixedSizeList(item, length) => {
            if !is_fixed_item(item.data_type(), in_list) {
                return Err(refused(
                    ": the items of a list of fixed length must have a fixed size",
                ));
            }
            DataType::FixedSizeList(child(column, item, true)?, *length)
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| child(column, field, in_list));
            DataType::Struct(fields.collect::<Result<_>>()?)
        }
        DataType::Dictionary(key, value) => {
            if value.is_nested() {
                return Err(refused(": a dictionary of nested values"));
            }
            DataType::Dictionary(key.clone(), Box::new(stored(column, value, in_list)?))
        }
        other => other.clone(),
    })
}

fn child(column: &str, field: &FieldRef, in_list: bool) -> Result<FieldRef> {
    if declares_blob(field) {
        return Err(Error::invalid(format!(
            "column `{column}` has a blob inside it (`{}`); blobs are columns of their own",
            field.name()
        )));
    }
    // Lance turns text into its binary form and back, which is safe only for what was looked at.
    if matches!(field.extension_type_name(), Some("arrow.json" | "lance.json")) {
        return Err(Error::invalid(format!(
            "column `{column}` has JSON inside it (`{}`); columns of JSON are columns of their own",
            field.name()
        )));
    }
    let data_type = stored(column, field.data_type(), in_list)?;
    Ok(match data_type == *field.data_type() {
        true => field.clone(),
        false => Arc::new(field.as_ref().clone().with_data_type(data_type)),
    })
}

/// What lance writes as an item of a list of fixed length without an error or a panic; seen by writing
/// each type with lance 14.0.2.
fn is_fixed_item(item: &DataType, in_list: bool) -> bool {
    match item {
        DataType::FixedSizeList(inner, _) => is_fixed_item(inner.data_type(), true),
        DataType::Struct(_) => !in_list,
        DataType::Boolean | DataType::FixedSizeBinary(_) | DataType::Null => true,
        other => other.is_primitive(),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::Field;

    use super::*;

    fn item(data_type: DataType) -> FieldRef {
        Arc::new(Field::new("item", data_type, true))
    }

    fn fixed(data_type: DataType) -> DataType {
        DataType::FixedSizeList(item(data_type), 2)
    }

    #[test]
    fn what_lance_cannot_write_is_refused_at_any_depth() {
        let map = DataType::Map(
            item(DataType::Struct(
                vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Utf8, true)]
                    .into(),
            )),
            false,
        );
        let in_struct =
            |inner: DataType| DataType::Struct(vec![Field::new("f", inner, true)].into());
        for wrong in [
            map.clone(),
            in_struct(map.clone()),
            DataType::List(item(in_struct(map))),
            fixed(DataType::Utf8),
            fixed(DataType::Binary),
            fixed(DataType::Utf8View),
            fixed(DataType::List(item(DataType::Int8))),
            DataType::List(item(fixed(DataType::LargeUtf8))),
            DataType::List(item(fixed(in_struct(DataType::Int8)))),
            in_struct(fixed(DataType::Utf8)),
        ] {
            let error = stored_type("c", &wrong).unwrap_err();
            assert!(error.message().contains("column `c`"), "{wrong}: {error}");
        }
    }

    #[test]
    fn views_become_plain_at_any_depth() {
        let list = DataType::List(item(DataType::Utf8View));
        assert_eq!(stored_type("c", &list).unwrap(), DataType::List(item(DataType::Utf8)));
        for kept in [fixed(DataType::Float32), fixed(fixed(DataType::Float16)), DataType::Float64] {
            assert_eq!(stored_type("c", &kept).unwrap(), kept);
        }
    }

    #[test]
    fn a_blob_inside_a_column_is_refused() {
        let blob = lance::blob_field("picture", true);
        let error = stored_type("c", &DataType::Struct(vec![blob].into())).unwrap_err();
        assert!(error.message().contains("picture"), "{error}");
    }
}
