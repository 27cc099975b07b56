//! SQL expressions from outside over the columns of a table, planned once and evaluated batch by batch.
//!
//! Updates and computed columns share them. What always holds: the text passed `sql_guard.rs` before it
//! was parsed; only the columns that it names are read; no blob is ever read for one.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Schema as ArrowSchema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use datafusion::physical_plan::PhysicalExpr;
use lakebed_core::{Error, Limits, Result, Subject, nearest_names};
use lance_core::datatypes::{Field, Schema};
use lance_datafusion::planner::Planner;

use crate::lance_error::from_lance;
use crate::sql_guard::check_sql;

/// The rows of a batch for which an SQL expression is true.
///
/// # Errors
/// `InvalidArgument` for an expression that does not parse or is neither true nor false.
pub fn matching_rows(batch: &RecordBatch, filter: &str, limits: &Limits) -> Result<RecordBatch> {
    check_sql(filter, limits)?;
    let planner = Planner::new(batch.schema());
    let expr = planner.parse_filter(filter).map_err(refused)?;
    let expr = planner.create_physical_expr(&expr).map_err(refused)?;
    let is_true = expr.evaluate(batch).and_then(|found| found.into_array(batch.num_rows()));
    let is_true = is_true.map_err(|error| Error::invalid(error.to_string()))?;
    let is_true = is_true.as_boolean_opt().ok_or_else(|| Error::invalid("this is no condition"))?;
    filter_record_batch(batch, is_true)
        .map_err(|error| Error::internal("rows of a batch").with_source(error))
}

/// Named expressions over one schema.
#[derive(Debug, Clone)]
pub(crate) struct Expressions {
    exprs: Vec<(String, Arc<dyn PhysicalExpr>)>,
    /// What the expressions read, in the order that they were planned with.
    read: SchemaRef,
}

impl Expressions {
    /// Plans `(name, SQL)` pairs over the columns of `schema`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the expression that does not parse or reads a blob column.
    pub(crate) fn new(
        schema: &Schema,
        pairs: &[(String, String)],
        limits: &Limits,
    ) -> Result<Expressions> {
        let whole = Planner::new(Arc::new(ArrowSchema::from(schema)));
        let mut parsed = Vec::with_capacity(pairs.len());
        let mut read: Vec<&Field> = Vec::new();
        for (name, sql) in pairs {
            check_sql(sql, limits).map_err(|error| about(name, error))?;
            let expr = whole.parse_expr(sql).map_err(|error| about(name, refused(error)))?;
            for path in Planner::column_names_in_expr(&expr) {
                let field = top_level(schema, &path).map_err(|error| about(name, error))?;
                if holds_blob(field) {
                    let message = format!("it reads blob column `{}`", field.name);
                    return Err(about(name, Error::invalid(message)));
                }
                if read.iter().all(|known| known.id != field.id) {
                    read.push(field);
                }
            }
            let expr = whole.optimize_expr(expr).map_err(|error| about(name, refused(error)))?;
            parsed.push((name, expr));
        }
        let fields: Vec<_> = read.into_iter().map(arrow_schema::Field::from).collect();
        let read = Arc::new(ArrowSchema::new(fields));
        let planner = Planner::new(Arc::clone(&read));
        let exprs = parsed
            .into_iter()
            .map(|(name, expr)| match planner.create_physical_expr(&expr) {
                Ok(expr) => Ok((name.clone(), expr)),
                Err(error) => Err(about(name, refused(error))),
            })
            .collect::<Result<_>>()?;
        Ok(Expressions { exprs, read })
    }

    /// The top-level columns that the expressions read.
    pub(crate) fn columns(&self) -> Vec<String> {
        self.read.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The type of each expression, in the order they were given.
    ///
    /// # Errors
    /// `InvalidArgument` naming the expression whose type cannot be told.
    pub(crate) fn types(&self) -> Result<Vec<(String, DataType)>> {
        self.exprs
            .iter()
            .map(|(name, expr)| match expr.data_type(&self.read) {
                Ok(data_type) => Ok((name.clone(), data_type)),
                Err(error) => Err(about(name, Error::invalid(error.to_string()))),
            })
            .collect()
    }

    /// The values of each expression for the rows of a batch that has at least [`Self::columns`].
    ///
    /// # Errors
    /// `InvalidArgument` naming the expression that fails for a row.
    pub(crate) fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let columns = self.read.fields().iter().map(|field| {
            batch
                .column_by_name(field.name())
                .cloned()
                .ok_or_else(|| Error::internal(format!("column `{}` was not read", field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let rows = batch.num_rows();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.read), columns, &options)
            .map_err(|error| Error::internal("rows of an expression").with_source(error))?;
        self.exprs
            .iter()
            .map(|(name, expr)| {
                expr.evaluate(&batch)
                    .and_then(|value| value.into_array(rows))
                    .map_err(|error| about(name, Error::invalid(error.strip_backtrace())))
            })
            .collect()
    }
}

/// The top-level column of a path as lance writes them: `a`, `a.b`, `` `a.b`.c ``.
fn top_level<'a>(schema: &'a Schema, path: &str) -> Result<&'a Field> {
    if let Some(field) = schema.fields.iter().find(|field| field.name == path) {
        return Ok(field);
    }
    let segments = lance_core::datatypes::parse_field_path(path).map_err(from_lance)?;
    let name = segments.first().map_or(path, String::as_str);
    schema.fields.iter().find(|field| field.name == name).ok_or_else(|| unknown(schema, path))
}

/// The error for a column that a schema does not have.
pub(crate) fn unknown(schema: &Schema, wanted: &str) -> Error {
    let near = nearest_names(wanted, schema.fields.iter().map(|field| field.name.as_str()));
    Error::not_found(format!("column `{wanted}` does not exist{near}")).about(Subject::Column)
}

fn about(name: &str, error: Error) -> Error {
    error.context(format!("the expression of column `{name}`"))
}

/// Whatever keeps an expression from being planned is the caller's text.
fn refused(error: lance::Error) -> Error {
    Error::invalid(from_lance(error).message().to_owned())
}

/// Whether a column is a blob or holds one.
pub(crate) fn holds_blob(field: &Field) -> bool {
    field.is_blob() || field.children.iter().any(holds_blob)
}
