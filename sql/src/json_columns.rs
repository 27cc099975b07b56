//! Columns of JSON in statements: text at both ends, lance's binary form between them.
//!
//! ```text
//!   SELECT j FROM t              ──► binary ──► text, declared as `arrow.json`
//!   INSERT INTO t VALUES ('{}')  ──► text ──► storage makes the binary form
//! ```
//!
//! The functions of JSON (`json_get`, `json_extract` and the like) take the binary form, so tables show it
//! inside a statement.

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, SchemaRef};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use futures::StreamExt;
use lakebed_core::Result;
use lakebed_storage::{is_json_field, json_as_text};

use crate::BatchStream;
use crate::error::from_datafusion;

/// The schema in which rows are shown.
pub(crate) fn shown_schema(schema: &SchemaRef) -> Result<SchemaRef> {
    match has_json(schema) {
        true => Ok(json_as_text(&RecordBatch::new_empty(SchemaRef::clone(schema)))?.schema()),
        false => Ok(SchemaRef::clone(schema)),
    }
}

/// Rows of `schema` as they are shown.
pub(crate) fn shown_rows(schema: &SchemaRef, batches: BatchStream) -> BatchStream {
    match has_json(schema) {
        true => batches.map(|batch| json_as_text(&batch?)).boxed(),
        false => batches,
    }
}

fn has_json(schema: &SchemaRef) -> bool {
    schema.fields().iter().any(|field| is_json_field(field))
}

/// Whether values of `given` reach a column of JSON as text.
pub(crate) fn is_text(column: &Field, given: &DataType) -> bool {
    is_json_field(column)
        && matches!(given, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The rows of an INSERT into `columns` with text where the engine made bytes of it, because bytes are
/// what a column of JSON has.
pub(crate) fn inserted(plan: LogicalPlan, columns: &SchemaRef) -> Result<LogicalPlan> {
    let schema = plan.schema().clone();
    let made_bytes = |given: &Field, column: &Field| is_json_field(column) && !is_json_field(given);
    let pairs = || schema.fields().iter().zip(columns.fields());
    if !pairs().any(|(given, column)| made_bytes(given, column)) {
        return Ok(plan);
    }
    let exprs = schema.columns().into_iter().zip(pairs()).map(|(expr, (given, column))| {
        match made_bytes(given, column) {
            true => cast(Expr::Column(expr), DataType::LargeUtf8).alias(column.name()),
            false => Expr::Column(expr),
        }
    });
    let plan = LogicalPlanBuilder::from(plan).project(exprs.collect::<Vec<_>>());
    plan.and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
}
