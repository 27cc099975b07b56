//! Expressions of UPDATE and DELETE as text of storage's own dialect.
//!
//! There names are quoted with back ticks, and a table has no name. Parameters become literals.

use std::ops::ControlFlow;

use arrow_array::RecordBatch;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Ident, TableFactor, TableWithJoins,
    Update, Value, VisitMut, VisitorMut,
};
use lakebed_core::{Error, ErrorKind, Result, TableId};

use crate::change::Change;
use crate::error::from_datafusion;
use crate::names::{Scope, parts_of};

/// The values of a statement's parameters.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    pub(crate) values: Vec<ScalarValue>,
}

impl Bound {
    /// The values of one row.
    ///
    /// # Errors
    /// `InvalidArgument` for a type that no parameter has.
    pub fn row(batch: &RecordBatch, row: usize) -> Result<Bound> {
        let values = batch.columns().iter().map(|column| {
            ScalarValue::try_from_array(column.as_ref(), row).map_err(from_datafusion)
        });
        Ok(Bound { values: values.collect::<Result<_>>()? })
    }

    /// The value of `$1`, `$2` and so on.
    fn value(&self, name: &str) -> Result<&ScalarValue> {
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let value = number.and_then(|number| self.values.get(number.checked_sub(1)?));
        value.ok_or_else(|| Error::invalid(format!("parameter {name} has no value")))
    }
}

/// Understands an UPDATE.
pub(crate) fn update(scope: &Scope, update: &Update, bound: &Bound) -> Result<Change> {
    let is_plain = update.from.is_none()
        && update.returning.is_none()
        && update.or.is_none()
        && update.order_by.is_empty()
        && update.limit.is_none();
    if !is_plain {
        return Err(not_built("UPDATE takes SET and WHERE; its other clauses are not built"));
    }
    let (table, name) = single_table(scope, std::slice::from_ref(&update.table), "UPDATE")?;
    let mut sets = Vec::with_capacity(update.assignments.len());
    for Assignment { target, value } in &update.assignments {
        let AssignmentTarget::ColumnName(column) = target else {
            return Err(not_built("UPDATE of several columns at once is not built"));
        };
        let mut parts = parts_of(column)?;
        if parts.len() > 1 && parts.first() == Some(&name) {
            parts.remove(0);
        }
        let [column] = parts.as_slice() else {
            return Err(not_built("UPDATE of a part of a column is not built"));
        };
        sets.push((column.clone(), text(value, Some(&name), bound)?));
    }
    let predicate = update.selection.as_ref().map(|filter| text(filter, Some(&name), bound));
    Ok(Change::Update { table, sets, predicate: predicate.transpose()? })
}

/// Understands a DELETE.
pub(crate) fn delete(scope: &Scope, delete: &Delete, bound: &Bound) -> Result<Change> {
    let is_plain = delete.tables.is_empty()
        && delete.using.is_none()
        && delete.returning.is_none()
        && delete.order_by.is_empty()
        && delete.limit.is_none();
    if !is_plain {
        return Err(not_built("DELETE takes WHERE; its other clauses are not built"));
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let (table, name) = single_table(scope, from, "DELETE")?;
    let predicate = delete.selection.as_ref().map(|filter| text(filter, Some(&name), bound));
    Ok(Change::Delete { table, predicate: predicate.transpose()? })
}

/// The only table of a statement, and the name that columns are qualified with.
fn single_table(scope: &Scope, from: &[TableWithJoins], what: &str) -> Result<(TableId, String)> {
    let [TableWithJoins { relation: TableFactor::Table { name, alias, args: None, .. }, joins }] =
        from
    else {
        return Err(not_built(format!("{what} of more than one table is not built")));
    };
    if !joins.is_empty() {
        return Err(not_built(format!("{what} with a join is not built")));
    }
    let table = scope.table_of(name)?;
    let own = match alias {
        Some(alias) => alias.name.value.clone(),
        None => table.name.to_string(),
    };
    Ok((table, own))
}

/// An expression over the columns of one table as text.
///
/// # Errors
/// `NotImplemented` for a subquery, `InvalidArgument` for a parameter without a value.
pub(crate) fn text(expr: &Expr, table: Option<&str>, bound: &Bound) -> Result<String> {
    let mut expr = expr.clone();
    match expr.visit(&mut Rewrite { table, bound }) {
        ControlFlow::Continue(()) => Ok(expr.to_string()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewrite<'a> {
    table: Option<&'a str>,
    bound: &'a Bound,
}

impl VisitorMut for Rewrite<'_> {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::Identifier(ident) => *ident = ticked(ident),
            Expr::CompoundIdentifier(parts) => {
                if parts.len() > 1 && parts.first().map(|part| part.value.as_str()) == self.table {
                    parts.remove(0);
                }
                for part in parts.iter_mut() {
                    *part = ticked(part);
                }
                if let [part] = parts.as_slice() {
                    *expr = Expr::Identifier(part.clone());
                }
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                return ControlFlow::Break(not_built(
                    "a subquery in UPDATE or DELETE is not built; select the keys first",
                ));
            }
            Expr::Value(value) => {
                if let Value::Placeholder(name) = &value.value {
                    match self.bound.value(name).and_then(literal) {
                        Ok(value) => *expr = value,
                        Err(error) => return ControlFlow::Break(error),
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn ticked(ident: &Ident) -> Ident {
    Ident::with_quote('`', &ident.value)
}

/// A value as an expression.
fn literal(value: &ScalarValue) -> Result<Expr> {
    use ScalarValue as S;
    if value.is_null() {
        return Ok(Expr::value(Value::Null));
    }
    let quoted = |text: &str| Expr::value(Value::SingleQuotedString(text.replace('\'', "''")));
    let number = |text: String| Expr::value(Value::Number(text, false));
    Ok(match value {
        S::Boolean(Some(value)) => Expr::value(Value::Boolean(*value)),
        S::Utf8(Some(text)) | S::LargeUtf8(Some(text)) | S::Utf8View(Some(text)) => quoted(text),
        S::Int8(_)
        | S::Int16(_)
        | S::Int32(_)
        | S::Int64(_)
        | S::UInt8(_)
        | S::UInt16(_)
        | S::UInt32(_)
        | S::UInt64(_) => number(value.to_string()),
        S::Float32(Some(value)) => number(format!("{value:e}")),
        S::Float64(Some(value)) => number(format!("{value:e}")),
        S::Date32(_)
        | S::Date64(_)
        | S::TimestampSecond(..)
        | S::TimestampMillisecond(..)
        | S::TimestampMicrosecond(..)
        | S::TimestampNanosecond(..)
        | S::Decimal128(..) => {
            let text = value.cast_to(&arrow_schema::DataType::Utf8).map_err(from_datafusion)?;
            let S::Utf8(Some(text)) = text else {
                return Err(Error::internal("a value has no text"));
            };
            match value {
                S::Decimal128(..) => number(text),
                _ => quoted(&text),
            }
        }
        other => {
            return Err(not_built(format!(
                "a parameter of type {} in UPDATE or DELETE is not built",
                other.data_type()
            )));
        }
    })
}

fn not_built(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotImplemented, what.into())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn told(sql: &str, values: Vec<ScalarValue>) -> Result<String> {
        let expr = Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap();
        text(&expr, Some("t"), &Bound { values })
    }

    #[test]
    fn names_and_parameters_take_storages_form() {
        for (sql, expected) in [
            (r#"a = 1 AND "B c" < 'x'"#, "`a` = 1 AND `B c` < 'x'"),
            ("t.a > lower(b)", "`a` > lower(`b`)"),
            ("s.part IS NULL", "`s`.`part` IS NULL"),
        ] {
            assert_eq!(told(sql, vec![]).unwrap(), expected);
        }
        let values = vec![ScalarValue::from("it's"), ScalarValue::from(-7_i64)];
        assert_eq!(told("a = $1 OR b = $2", values).unwrap(), "`a` = 'it''s' OR `b` = -7");
        assert!(told("a = $1", vec![]).unwrap_err().message().contains("$1"));
        let error = told("a IN (SELECT b FROM u)", vec![]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotImplemented);
    }
}
