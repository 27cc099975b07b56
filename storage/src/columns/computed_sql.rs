//! Columns that are kept computed by a SQL expression over the other columns of their row.
//!
//! Such a column is null until it is refreshed. A refresh writes the rows whose value is not what the
//! expression says now, so rows that came or changed since are caught up with, and others cost a look.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema as ArrowSchema};
use async_recursion::async_recursion as boxed;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result};
use lance_core::datatypes::Schema;

use super::field_at;
use crate::computed::{INPUTS, KIND};
use crate::expressions::Expressions;
use crate::table::Table;
use crate::update::RowUpdate;

const EXPRESSION: &str = "computed_column.expression";

impl Table {
    /// Adds a column for each `(name, SQL expression)`, null in every row and with `notes` in its metadata;
    /// returns the version with them.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists or cannot be stored, an expression that does not parse
    /// or reads a computed column.
    #[boxed]
    pub async fn add_computed_columns(
        &self,
        branch: Option<&str>,
        columns: &[(String, String)],
        notes: &HashMap<String, String>,
    ) -> Result<u64> {
        if columns.is_empty() {
            return Err(Error::invalid("no column is given"));
        }
        let latest = self.branch(branch).await?.latest().await?;
        let schema = latest.schema();
        let mut fields = Vec::with_capacity(columns.len());
        for column in columns {
            let (name, expression) = column;
            let parsed =
                Expressions::new(schema, std::slice::from_ref(column), &self.shared.limits)?;
            let inputs = parsed.columns();
            for input in &inputs {
                if field_at(schema, input)?.metadata.contains_key("computed_column") {
                    let message = format!("column `{name}` would read computed column `{input}`");
                    return Err(Error::invalid(message));
                }
            }
            let data_type = parsed.types()?.into_iter().next().map(|(_, data_type)| data_type);
            let data_type = data_type.ok_or_else(|| Error::internal("an expression of no type"))?;
            let mut metadata: HashMap<String, String> = [
                ("computed_column", "true".to_owned()),
                (KIND, "sql".to_owned()),
                (EXPRESSION, expression.clone()),
                (INPUTS, serde_json::json!(inputs).to_string()),
                ("computed_refresh.source_signature", "{}".to_owned()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
            metadata.extend(notes.clone());
            fields.push(Field::new(name, data_type, true).with_metadata(metadata));
        }
        self.add_null_columns(branch, Arc::new(ArrowSchema::new(fields))).await
    }

    /// Gives the rows of a column the values that its expression has now, where they have others; returns how
    /// many these were, and the version with them.
    ///
    /// # Errors
    /// `NotFound` when there is no such column, `InvalidArgument` when no expression computes it or it fails
    /// for a row.
    pub fn refresh_computed_column<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        column: &'a str,
    ) -> BoxFuture<'a, Result<(u64, u64)>> {
        async move {
            let branch = self.branch(branch).await?;
            let _pin = branch.hold().await?;
            let latest = branch.latest().await?;
            let (expression, data_type) = computed_by(latest.schema(), column)?;
            let now = format!("({expression})");
            // Values of nested types cannot be compared, and are all written.
            let predicate = (!data_type.is_nested()).then(|| {
                format!(
                    "(`{column}` IS NULL AND {now} IS NOT NULL) OR (`{column}` IS NOT NULL AND {now} IS \
                     NULL) OR `{column}` <> {now}"
                )
            });
            let assignments = vec![(column.to_owned(), expression)];
            branch.update_with_others(self, RowUpdate { predicate, assignments }).await
        }
        .boxed()
    }
}

/// The expression of a column, and its type.
fn computed_by(schema: &Schema, column: &str) -> Result<(String, DataType)> {
    let field = field_at(schema, column)?;
    match field.metadata.get(KIND).map(String::as_str) {
        Some("sql") => {}
        _ => return Err(Error::invalid(format!("column `{column}` is not computed by SQL"))),
    }
    let expression = field.metadata.get(EXPRESSION).cloned().ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("computed column `{column}` has no expression"))
    })?;
    Ok((expression, field.data_type()))
}
