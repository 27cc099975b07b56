//! Lossless widening: values of one type as equal values of another.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, FixedSizeListArray, GenericListArray, OffsetSizeTrait};
use arrow_array::{StructArray, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, TimeUnit};
use lakebed_core::{Error, Result};

/// What becomes of a field that a struct lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// It is null, where it may be.
    Null,
    /// The struct is refused.
    Refused,
}

/// A column as the field says, whose type is one that [`is_lossless`].
///
/// # Errors
/// `InvalidArgument` naming the column, where a value has no equal one, such as a list of another length.
pub(crate) fn widen(field: &Field, column: &ArrayRef) -> Result<ArrayRef> {
    widened(column, field.data_type()).map_err(|error| {
        Error::invalid(format!(
            "column `{}` of type {} cannot become {}: {error}",
            field.name(),
            column.data_type(),
            field.data_type()
        ))
    })
}

fn widened(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType::*;
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    // Arrow's own casts take the fields of structs by their place.
    let same_lists = match (column.data_type(), to) {
        (Struct(_), Struct(fields)) => {
            let structs = column.as_struct();
            let children = fields.iter().map(|field| match structs.column_by_name(field.name()) {
                Some(child) => widened(child, field.data_type()),
                None => Ok(new_null_array(field.data_type(), column.len())),
            });
            let children = children.collect::<Result<Vec<_>, ArrowError>>()?;
            let nulls = structs.nulls().cloned();
            let widened = match children.is_empty() {
                true => StructArray::new_empty_fields(column.len(), nulls),
                false => StructArray::try_new(fields.clone(), children, nulls)?,
            };
            return Ok(Arc::new(widened));
        }
        (List(_), List(item) | LargeList(item) | FixedSizeList(item, _)) => {
            lists::<i32>(column, item)?
        }
        (LargeList(_), List(item) | LargeList(item) | FixedSizeList(item, _)) => {
            lists::<i64>(column, item)?
        }
        (FixedSizeList(_, size), List(item) | LargeList(item) | FixedSizeList(item, _)) => {
            let list = column.as_fixed_size_list();
            let values = widened(list.values(), item.data_type())?;
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *size, values, nulls)?)
        }
        _ => Arc::clone(column),
    };
    // Not `safe`: a value that does not fit must be an error, never a null.
    let options = CastOptions { safe: false, ..Default::default() };
    cast_with_options(&same_lists, to, &options)
}

/// The same lists of widened values.
fn lists<O: OffsetSizeTrait>(column: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = column.as_list::<O>();
    let values = widened(list.values(), item.data_type())?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), offsets, values, nulls)?))
}

/// Whether every value of `from` has an equal value in `to`.
pub(crate) fn is_lossless(from: &DataType, to: &DataType, lacking: Lacking) -> bool {
    use DataType::*;
    if from == to {
        return true;
    }
    let is_within = |a: &FieldRef, b: &FieldRef| is_lossless(a.data_type(), b.data_type(), lacking);
    match (from, to) {
        (Null, _) => true,
        (Dictionary(_, value), to) => is_lossless(value, to, lacking),
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
            is_within(a, b)
        }
        (FixedSizeList(a, n), FixedSizeList(b, m)) => n == m && is_within(a, b),
        (FixedSizeList(a, _), List(b) | LargeList(b)) => is_within(a, b),
        // Fails, naming the column, on a list of another length.
        (List(a) | LargeList(a), FixedSizeList(b, _)) => is_within(a, b),
        (Struct(a), Struct(b)) => {
            let is_known = |field: &FieldRef| b.find(field.name()).is_some();
            let has_room = |field: &FieldRef| match a.find(field.name()) {
                Some((_, sent)) => is_within(sent, field),
                None => lacking == Lacking::Null && field.is_nullable(),
            };
            a.iter().all(is_known) && b.iter().all(has_room)
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

#[cfg(test)]
mod tests {
    use arrow_array::types::Int32Type;
    use arrow_array::{Int32Array, Int64Array, ListArray};
    use arrow_schema::Fields;

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
            assert!(is_lossless(&from, &to, Lacking::Null), "{from} to {to}");
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
            assert!(!is_lossless(&from, &to, Lacking::Null), "{from} to {to}");
        }
    }

    fn pair(b: DataType, a: Option<DataType>) -> Fields {
        let of = |name: &str, data_type| Field::new(name, data_type, true);
        std::iter::once(of("b", b)).chain(a.map(|a| of("a", a))).collect()
    }

    #[test]
    fn structs_match_by_name_and_what_they_lack_is_null() {
        use DataType::*;
        let (from, to) = (pair(Int32, None), pair(Int64, Some(Int64)));
        let turned: Fields = to.iter().rev().cloned().collect();
        assert!(is_lossless(&Struct(from.clone()), &Struct(to.clone()), Lacking::Null));
        assert!(is_lossless(&Struct(turned), &Struct(to.clone()), Lacking::Refused));
        assert!(!is_lossless(&Struct(from.clone()), &Struct(to.clone()), Lacking::Refused));
        assert!(!is_lossless(&Struct(to.clone()), &Struct(from.clone()), Lacking::Null));
        let needed: Fields = to.iter().map(|it| Field::new(it.name(), Int64, false)).collect();
        assert!(!is_lossless(&Struct(from.clone()), &Struct(needed), Lacking::Null));

        let sent = StructArray::new(from, vec![Arc::new(Int32Array::from(vec![4, 5]))], None);
        let field = Field::new("stuff", Struct(to.clone()), true);
        let sent: ArrayRef = Arc::new(sent);
        let found = widen(&field, &sent).unwrap();
        let found = found.as_struct();
        assert_eq!(found.column(0).as_ref(), &Int64Array::from(vec![4, 5]));
        assert_eq!(found.column(1).null_count(), 2);

        // In lists, of which the first is cut off.
        let item = Arc::new(Field::new("item", sent.data_type().clone(), true));
        let offsets = arrow_buffer::OffsetBuffer::from_lengths([1, 0, 1]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, sent, None).slice(1, 2));
        let field =
            Field::new("s", LargeList(Arc::new(Field::new("item", Struct(to), true))), true);
        let found = widen(&field, &list).unwrap();
        assert_eq!(found.data_type(), field.data_type());
        let last = found.as_list::<i64>().value(1);
        assert_eq!(last.as_struct().column(0).as_ref(), &Int64Array::from(vec![5]));
    }

    #[test]
    fn a_list_of_another_length_is_an_error() {
        let list =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)])]);
        let of = |size| {
            let item = Arc::new(Field::new("item", DataType::Int64, true));
            Field::new("v", DataType::FixedSizeList(item, size), true)
        };
        let list: ArrayRef = Arc::new(list);
        assert!(widen(&of(2), &list).is_ok());
        assert!(widen(&of(3), &list).unwrap_err().message().contains("column `v`"));
    }
}
