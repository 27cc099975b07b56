//! Which rows a function gave no value, and why.

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, UInt64Type};
use arrow_array::{Array, RecordBatch, StringArray};
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_storage::{At, Projection, ScanSpec};
use serde::Serialize;

use crate::Service;
use crate::authenticate::require;

/// Rows that are told at most.
const ROWS_MAX: usize = 100_000;
const COLUMNS: [&str; 11] = [
    "job_id",
    "fragment_id",
    "row_offset",
    "row_id",
    "column_name",
    "function",
    "function_version",
    "version",
    "error_type",
    "error",
    "noted_at",
];

/// A row without a value, as the SDKs read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionFailure {
    /// The job.
    pub job_id: String,
    /// The fragment of the row, in `table_version`.
    pub fragment_id: u64,
    /// The row's place in the fragment.
    pub row_offset: u64,
    /// The stable id of the row.
    pub row_id: u64,
    /// The column.
    pub column: String,
    /// The function's id.
    pub function: String,
    /// Its version.
    pub function_version: String,
    /// The version that was read.
    pub table_version: u64,
    /// The kind of the error.
    pub error_type: String,
    /// What went wrong.
    pub error_message: String,
    /// When it was noted, in milliseconds since the Unix epoch.
    pub created_at_millis: i64,
}

/// Rows without a value, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FunctionFailures {
    /// The rows.
    pub records: Vec<FunctionFailure>,
    /// Whether there are more.
    pub truncated: bool,
}

impl Service {
    /// The rows that functions gave no value in a table: of one job and of one column, where they are named.
    ///
    /// # Errors
    /// `NotFound` naming the table.
    pub async fn function_failures(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        job_id: Option<&str>,
        column: Option<&str>,
        limit: usize,
    ) -> Result<FunctionFailures> {
        require(ctx, Role::Read)?;
        self.fresh_table(ctx, table, None).await?;
        let notes = TableId::parse(&table.database, lakebed_jobs::ERRORS_TABLE)?;
        let notes = match self.lake.table(&notes).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
            notes => notes?,
        };
        let snapshot = notes.snapshot(None, &At::Latest).await?;
        let known = snapshot.written_schema();
        if !COLUMNS.iter().all(|column| known.field_with_name(column).is_ok()) {
            return Ok(FunctionFailures::default());
        }
        let mut filter = format!("function IS NOT NULL AND table_name = {}", quoted(&table.text()));
        if let Some(job_id) = job_id {
            filter += &format!(" AND job_id = {}", quoted(job_id));
        }
        let spec = ScanSpec {
            projection: Projection::Names(COLUMNS.map(str::to_owned).to_vec()),
            filter: Some(filter),
            ..ScanSpec::default()
        };
        let (_, mut batches) = snapshot.scan(&spec).await?;
        let mut records = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let found = failures(&batch)?.into_iter().flatten();
            records.extend(found.filter(|row| column.is_none_or(|column| row.column == column)));
            if records.len() > 2 * ROWS_MAX {
                newest(&mut records, ROWS_MAX + 1);
            }
        }
        let limit = limit.min(ROWS_MAX);
        let truncated = records.len() > limit;
        newest(&mut records, limit);
        Ok(FunctionFailures { records, truncated })
    }
}

/// Keeps the newest.
fn newest(records: &mut Vec<FunctionFailure>, limit: usize) {
    records.sort_by_key(|row| std::cmp::Reverse(row.created_at_millis));
    records.truncate(limit);
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Each row of notes, once for each column that has no value.
fn failures(batch: &RecordBatch) -> Result<Vec<Vec<FunctionFailure>>> {
    let wrong = || Error::internal("the table of errors has other columns than it should");
    let text = |name: &str| -> Result<&StringArray> {
        batch.column_by_name(name).and_then(|it| it.as_string_opt()).ok_or_else(wrong)
    };
    let number = |name: &str| {
        let column = batch.column_by_name(name).and_then(|it| it.as_primitive_opt::<UInt64Type>());
        column.ok_or_else(wrong)
    };
    let at = batch.column_by_name("noted_at");
    let at =
        at.and_then(|it| it.as_primitive_opt::<TimestampMillisecondType>()).ok_or_else(wrong)?;
    let (job, columns, function) = (text("job_id")?, text("column_name")?, text("function")?);
    let (kind, error) = (text("error_type")?, text("error")?);
    let (fragment, offset, row_id) =
        (number("fragment_id")?, number("row_offset")?, number("row_id")?);
    let (function_version, version) = (number("function_version")?, number("version")?);
    let row = |row: usize| {
        let one = |column: &str| FunctionFailure {
            job_id: job.value(row).to_owned(),
            fragment_id: fragment.value(row),
            row_offset: offset.value(row),
            row_id: row_id.value(row),
            column: column.to_owned(),
            function: function.value(row).to_owned(),
            function_version: function_version.value(row).to_string(),
            table_version: version.value(row),
            error_type: match kind.is_valid(row) {
                true => kind.value(row).to_owned(),
                false => "Error".to_owned(),
            },
            error_message: error.value(row).to_owned(),
            created_at_millis: at.value(row),
        };
        columns.value(row).split(',').map(one).collect()
    };
    Ok((0..batch.num_rows()).map(row).collect())
}
