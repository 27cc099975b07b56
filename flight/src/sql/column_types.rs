//! Columns of SQL in types that more clients can read.
//!
//! | type | how it comes |
//! | --- | --- |
//! | views of text and bytes | as text and bytes: only functions of the engine make them, and many clients cannot read them |
//! | dictionaries, text and bytes and lists with long offsets | as they are stored, unless a call says `column-types: plain` |
//!
//! What always holds: a statement's rows have the types that were told for it before, by FlightInfo, a
//! prepared statement or a catalogue.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef};
use futures::StreamExt;
use lakebed_core::{Error, Result};
use lakebed_service::BatchStream;

/// The header in which a client says what it can read.
pub(crate) const COLUMN_TYPES_HEADER: &str = "column-types";

/// What a client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ColumnTypes {
    /// What tables are stored in.
    #[default]
    Stored,
    /// Text, bytes and lists with short offsets.
    Plain,
}

impl ColumnTypes {
    /// What the header says.
    ///
    /// # Errors
    /// `InvalidArgument` for another word.
    pub(crate) fn parse(text: Option<&str>) -> Result<ColumnTypes> {
        match text {
            None | Some("" | "stored") => Ok(ColumnTypes::Stored),
            Some("plain") => Ok(ColumnTypes::Plain),
            Some(_) => Err(Error::invalid(format!(
                "header `{COLUMN_TYPES_HEADER}` is neither `plain` nor `stored`"
            ))),
        }
    }

    /// A schema as the client gets it.
    pub(crate) fn schema(self, schema: &Schema) -> Schema {
        let fields = schema.fields().iter().map(|field| self.field(field)).collect::<Fields>();
        Schema::new_with_metadata(fields, schema.metadata().clone())
    }

    /// Rows as the client gets them.
    pub(crate) fn rows(self, schema: SchemaRef, batches: BatchStream) -> (SchemaRef, BatchStream) {
        let shown = Arc::new(self.schema(&schema));
        if shown == schema {
            return (schema, batches);
        }
        let own = Arc::clone(&shown);
        let batches = batches.map(move |batch| cast(&batch?, &own));
        (shown, batches.boxed())
    }

    fn field(self, field: &FieldRef) -> FieldRef {
        let data_type = self.data_type(field.data_type());
        match data_type == *field.data_type() {
            true => Arc::clone(field),
            false => Arc::new(field.as_ref().clone().with_data_type(data_type)),
        }
    }

    fn data_type(self, data_type: &DataType) -> DataType {
        use DataType as T;
        let is_plain = self == ColumnTypes::Plain;
        match data_type {
            T::Utf8View => T::Utf8,
            T::BinaryView => T::Binary,
            T::LargeUtf8 if is_plain => T::Utf8,
            T::LargeBinary if is_plain => T::Binary,
            T::Dictionary(_, value) if is_plain => self.data_type(value),
            T::List(item) => T::List(self.field(item)),
            T::LargeList(item) if is_plain => T::List(self.field(item)),
            T::LargeList(item) => T::LargeList(self.field(item)),
            T::FixedSizeList(item, length) => T::FixedSizeList(self.field(item), *length),
            T::Struct(fields) => {
                T::Struct(fields.iter().map(|field| self.field(field)).collect::<Fields>())
            }
            other => other.clone(),
        }
    }
}

fn cast(batch: &RecordBatch, shown: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(shown.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => arrow_cast::cast(column, field.data_type()).map_err(|error| {
                Error::invalid(format!(
                    "column `{}` does not fit into type {}: read it without the header \
                     `{COLUMN_TYPES_HEADER}`, or less of it",
                    crate::descriptor::shown(field.name()),
                    field.data_type()
                ))
                .with_source(error)
            }),
        }
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(shown), columns, &options)
        .map_err(|error| Error::internal("columns cannot be shown").with_source(error))
}

#[cfg(test)]
mod tests {
    use arrow_schema::Field;

    use super::*;

    fn item(data_type: DataType) -> FieldRef {
        Arc::new(Field::new("item", data_type, true))
    }

    #[test]
    fn views_go_always_and_the_rest_on_demand() {
        use DataType as T;
        let dictionary = T::Dictionary(Box::new(T::Int32), Box::new(T::LargeUtf8));
        for (stored, told, plain) in [
            (T::Utf8View, T::Utf8, T::Utf8),
            (T::List(item(T::BinaryView)), T::List(item(T::Binary)), T::List(item(T::Binary))),
            (T::LargeUtf8, T::LargeUtf8, T::Utf8),
            (dictionary.clone(), dictionary, T::Utf8),
            (
                T::LargeList(item(T::LargeBinary)),
                T::LargeList(item(T::LargeBinary)),
                T::List(item(T::Binary)),
            ),
            (
                T::FixedSizeList(item(T::Float32), 2),
                T::FixedSizeList(item(T::Float32), 2),
                T::FixedSizeList(item(T::Float32), 2),
            ),
        ] {
            assert_eq!(ColumnTypes::Stored.data_type(&stored), told);
            assert_eq!(ColumnTypes::Plain.data_type(&stored), plain);
            let empty = arrow_array::new_empty_array(&stored);
            assert!(arrow_cast::cast(&empty, &plain).is_ok(), "{stored}");
        }
    }

    #[test]
    fn the_header_has_two_words() {
        assert_eq!(ColumnTypes::parse(None).unwrap(), ColumnTypes::Stored);
        assert_eq!(ColumnTypes::parse(Some("plain")).unwrap(), ColumnTypes::Plain);
        assert!(ColumnTypes::parse(Some("simple")).is_err());
    }
}
