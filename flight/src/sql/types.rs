//! GetXdbcTypeInfo: the types of columns, as drivers of ODBC and JDBC want to know them.

use std::sync::OnceLock;

use arrow_array::RecordBatch;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{CommandGetXdbcTypeInfo, Nullable, Searchable, XdbcDataType};
use arrow_schema::SchemaRef;
use lakebed_core::Result;

use super::encoding;

/// The schema of the answer.
///
/// # Errors
/// `Internal` when the table of types cannot be built.
pub(crate) fn schema() -> Result<SchemaRef> {
    Ok(known()?.schema())
}

/// The types that were asked for.
pub(crate) fn types(command: CommandGetXdbcTypeInfo) -> Result<RecordBatch> {
    known()?.record_batch(command.data_type).map_err(encoding)
}

fn known() -> Result<&'static XdbcTypeInfoData> {
    static KNOWN: OnceLock<XdbcTypeInfoData> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known);
    }
    let mut builder = XdbcTypeInfoDataBuilder::new();
    use XdbcDataType as X;
    for (name, data_type, size, radix) in [
        ("BOOLEAN", X::XdbcBit, 1, None),
        ("TINYINT", X::XdbcTinyint, 8, Some(2)),
        ("SMALLINT", X::XdbcSmallint, 16, Some(2)),
        ("INT", X::XdbcInteger, 32, Some(2)),
        ("BIGINT", X::XdbcBigint, 64, Some(2)),
        ("FLOAT", X::XdbcReal, 24, Some(2)),
        ("DOUBLE", X::XdbcDouble, 53, Some(2)),
        ("DECIMAL", X::XdbcDecimal, 38, Some(10)),
        ("DATE", X::XdbcDate, 10, None),
        ("TIME", X::XdbcTime, 18, None),
        ("TIMESTAMP", X::XdbcTimestamp, 29, None),
        ("VARCHAR", X::XdbcVarchar, i32::MAX, None),
        ("VARBINARY", X::XdbcVarbinary, i32::MAX, None),
        ("BLOB", X::XdbcLongvarbinary, i32::MAX, None),
    ] {
        let is_text = data_type == X::XdbcVarchar;
        let quote = match data_type {
            X::XdbcVarchar | X::XdbcDate | X::XdbcTime | X::XdbcTimestamp => Some("'"),
            _ => None,
        };
        let is_number = radix.is_some();
        builder.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size: Some(size),
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            create_params: (data_type == X::XdbcDecimal)
                .then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: is_text,
            searchable: if is_text { Searchable::Full } else { Searchable::Basic },
            unsigned_attribute: is_number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: is_number.then_some(false),
            local_type_name: Some(name.to_owned()),
            minimum_scale: (data_type == X::XdbcDecimal).then_some(0),
            maximum_scale: (data_type == X::XdbcDecimal).then_some(38),
            sql_data_type: data_type,
            datetime_subcode: None,
            num_prec_radix: radix,
            interval_precision: None,
        });
    }
    let built = builder.build().map_err(encoding)?;
    Ok(KNOWN.get_or_init(|| built))
}
