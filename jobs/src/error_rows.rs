//! The table `job_errors` of a database: each row that a job could give no value, and why.
//!
//! It is a table like any other, made at the first error. Notes of one group of a job share a write id,
//! so they are there once, however often they are noted.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use lakebed_core::{DatabaseName, Error, Result, TableId};
use lakebed_storage::Lake;

use crate::parts::RowError;

/// The table's name.
pub const ERRORS_TABLE: &str = "job_errors";
/// Rows of one batch.
const BATCH_ROWS: usize = 8_192;

/// One row without a value.
#[derive(Debug, Clone)]
pub(crate) struct ErrorRow {
    pub(crate) job_id: String,
    pub(crate) table: String,
    pub(crate) column: String,
    pub(crate) row_id: u64,
    pub(crate) version: u64,
    pub(crate) fragment: u32,
    /// The row's place in the fragment.
    pub(crate) place: u32,
    /// The function and its version, where it was one.
    pub(crate) function: Option<(String, u64)>,
    pub(crate) error: RowError,
}

/// Appends errors to the table of their database, which is made if it is missing.
///
/// # Errors
/// Those of writing; a table of that name with other columns is left alone, and a log line says so.
pub(crate) async fn note_errors(
    lake: &Arc<Lake>,
    database: &DatabaseName,
    rows: Vec<ErrorRow>,
    write_id: String,
    now_ms: i64,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let batches = rows.chunks(BATCH_ROWS).map(|rows| batch(rows, now_ms));
    let batches = batches.collect::<Result<Vec<RecordBatch>>>()?;
    let id = TableId::parse(database, ERRORS_TABLE)?;
    lake.note_rows(&id, batches, Some(write_id)).await
}

fn batch(rows: &[ErrorRow], now_ms: i64) -> Result<RecordBatch> {
    let text = |of: fn(&ErrorRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let number = |of: fn(&ErrorRow) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
    };
    let some_text = |of: fn(&ErrorRow) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let versions = rows.iter().map(|row| row.function.as_ref().map(|(_, version)| *version));
    let at = TimestampMillisecondArray::from_value(now_ms, rows.len()).with_timezone("UTC");
    // What may be null is said, and not told by the rows: the first ones make the table for all others.
    RecordBatch::try_from_iter_with_nullable([
        ("job_id", text(|row| &row.job_id), false),
        ("table_name", text(|row| &row.table), false),
        ("column_name", text(|row| &row.column), false),
        ("row_id", number(|row| row.row_id), false),
        ("version", number(|row| row.version), false),
        ("error", text(|row| &row.error.error), false),
        ("noted_at", Arc::new(at) as ArrayRef, false),
        ("fragment_id", number(|row| u64::from(row.fragment)), false),
        ("row_offset", number(|row| u64::from(row.place)), false),
        ("function", some_text(|row| row.function.as_ref().map(|(id, _)| id.as_str())), true),
        ("function_version", Arc::new(versions.collect::<UInt64Array>()) as ArrayRef, true),
        ("error_type", some_text(|row| row.error.error_type.as_deref()), true),
        ("traceback", some_text(|row| row.error.traceback.as_deref()), true),
    ])
    .map_err(|error| Error::internal("rows of errors").with_source(error))
}
