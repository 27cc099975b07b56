//! The versions, tags and computed columns of a table in SQL: lists of them as tables, and calls.
//!
//! ```text
//!   FROM versions('frames')                        version, committed_at; the newest first
//!   FROM tags('frames')                            name, version, branch
//!   FROM lineage('frames')                         what computes which columns, from what
//!   CALL create_tag('frames', 'gold', 7)           without a version the newest one
//!   CALL move_tag('frames', 'gold', 9)
//!   CALL delete_tag('frames', 'gold')
//!   CALL restore('frames', 7)
//!   CALL refresh('frames', 'vector')               begins to fill a computed column
//! ```
//!
//! Like a search, a table of them is taken out of the statement before it is planned, and its rows stand in
//! its place: they are those of the moment at which the statement is planned.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    Statement as Ast, TableFactor, TableFunctionArgs, Value, VisitMut, VisitorMut,
};
use lakebed_core::{Error, ErrorKind, Result, TableId, TagName};
use lakebed_storage::{At, Lineage, Table};

use crate::change::Change;
use crate::engine::Sql;
use crate::error::from_datafusion;
use crate::names::Scope;
use crate::parse::simple_name;
use crate::search::{alias_of, text, value_of};

/// A name with a space is no table's.
const PREFIX: &str = "history ";
/// The most versions that are shown.
const VERSIONS_MAX: usize = 10_000;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Versions,
    Tags,
    Lineage,
}

/// A list that a statement reads.
#[derive(Debug)]
pub(crate) struct CalledHistory {
    /// The name of the table that stands for it.
    pub(crate) name: String,
    /// The table whose history it is, as the statement names it.
    pub(crate) table: String,
    pub(crate) listed: Listed,
}

/// What a call does to the history of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryChange {
    /// Names a version.
    CreateTag(TagName, u64),
    /// Lets a name stand for another version.
    MoveTag(TagName, u64),
    /// Takes a name away.
    DeleteTag(TagName),
    /// Commits an old version again.
    Restore(u64),
}

/// Takes the lists out of a statement and puts names in their places.
///
/// # Errors
/// `InvalidArgument` for arguments that are not understood.
pub(crate) fn take_histories(statement: &mut Ast) -> Result<Vec<CalledHistory>> {
    let mut calls = Calls { found: Vec::new() };
    match statement.visit(&mut calls) {
        ControlFlow::Continue(()) => Ok(calls.found),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Calls {
    found: Vec<CalledHistory>,
}

impl VisitorMut for Calls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, args, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let function = simple_name(name).map(str::to_ascii_lowercase).unwrap_or_default();
        let listed = match function.as_str() {
            "versions" => Listed::Versions,
            "tags" => Listed::Tags,
            "lineage" => Listed::Lineage,
            _ => return ControlFlow::Continue(()),
        };
        let Some(given) = args.take() else { return ControlFlow::Continue(()) };
        match named_table(&given) {
            Ok(table) => {
                let stand_in = format!("{PREFIX}{}", self.found.len());
                *name = ObjectName::from(vec![Ident::with_quote('"', stand_in.clone())]);
                alias.get_or_insert_with(|| alias_of(&function));
                self.found.push(CalledHistory { name: stand_in, table, listed });
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error.context(function)),
        }
    }
}

fn named_table(given: &TableFunctionArgs) -> Result<String> {
    match given.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(table))] => text(table, "the table"),
        _ => Err(Error::invalid("it takes a table")),
    }
}

/// A list as a table.
///
/// # Errors
/// `Unavailable` when the store does not answer.
pub(crate) async fn history_table(
    table: &Arc<Table>,
    listed: Listed,
) -> Result<Arc<dyn TableProvider>> {
    let columns: Vec<(&str, ArrayRef, bool)> = match listed {
        Listed::Versions => {
            let versions = table.list_versions(None, VERSIONS_MAX, None).await?;
            let numbers = Int64Array::from_iter_values(versions.iter().map(|v| v.version as i64));
            let times = versions.iter().map(|v| v.committed_at.timestamp_micros());
            let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
            vec![
                ("version", Arc::new(numbers) as ArrayRef, false),
                ("committed_at", Arc::new(times) as ArrayRef, false),
            ]
        }
        Listed::Tags => {
            let tags = table.list_tags().await?;
            let names = StringArray::from_iter_values(tags.iter().map(|tag| &tag.name));
            let numbers = Int64Array::from_iter_values(tags.iter().map(|tag| tag.version as i64));
            let branches: StringArray = tags.iter().map(|tag| tag.branch.as_deref()).collect();
            vec![
                ("name", Arc::new(names) as ArrayRef, false),
                ("version", Arc::new(numbers) as ArrayRef, false),
                ("branch", Arc::new(branches) as ArrayRef, true),
            ]
        }
        Listed::Lineage => lineage(table.snapshot(None, &At::Latest).await?.lineage()),
    };
    let batch = RecordBatch::try_from_iter_with_nullable(columns)
        .map_err(|error| Error::internal("a list cannot be built").with_source(error))?;
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(from_datafusion)?;
    Ok(Arc::new(table))
}

fn lineage(columns: Vec<Lineage>) -> Vec<(&'static str, ArrayRef, bool)> {
    let text = |value: fn(&Lineage) -> Option<&str>| -> ArrayRef {
        Arc::new(columns.iter().map(value).collect::<StringArray>())
    };
    let number = |value: fn(&Lineage) -> Option<u64>| -> ArrayRef {
        let numbers = columns.iter().map(|of| value(of).and_then(|it| i64::try_from(it).ok()));
        Arc::new(numbers.collect::<Int64Array>())
    };
    let mut inputs = ListBuilder::new(StringBuilder::new());
    for column in &columns {
        inputs.append_value(column.inputs.iter().map(Some));
    }
    vec![
        ("column", text(|of| Some(&of.column)), false),
        ("kind", text(|of| Some(&of.kind)), false),
        ("name", text(|of| of.name.as_deref()), true),
        ("version", number(|of| of.version), true),
        ("digest", text(|of| of.digest.as_deref()), true),
        ("inputs", Arc::new(inputs.finish()), false),
        ("source_version", number(|of| of.source_version), true),
        ("job_id", text(|of| of.job_id.as_deref()), true),
        ("refresh_seconds", number(|of| of.refresh_seconds), true),
    ]
}

/// The table that a CALL is about, as the statement names it; nothing where the call is not known.
pub(crate) fn called_table(call: &Function) -> Option<String> {
    let (_, arguments) = known_call(call).ok()?;
    text(arguments.first()?, "the table").ok()
}

/// Checks that a CALL is one that is known.
///
/// # Errors
/// `NotImplemented` naming those that are.
pub(crate) fn check_call(call: &Function) -> Result<()> {
    known_call(call).map(|_| ())
}

fn known_call(call: &Function) -> Result<(String, Vec<&Expr>)> {
    let name = simple_name(&call.name).map(str::to_ascii_lowercase).unwrap_or_default();
    if !matches!(name.as_str(), "create_tag" | "move_tag" | "delete_tag" | "restore" | "refresh") {
        return Err(Error::new(
            ErrorKind::NotImplemented,
            "CALL takes create_tag, move_tag, delete_tag, restore or refresh; nothing else is built",
        ));
    }
    let FunctionArguments::List(list) = &call.args else { return Ok((name, Vec::new())) };
    let mut arguments = Vec::with_capacity(list.args.len());
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => arguments.push(expr),
            _ => return Err(Error::invalid(format!("{name}: its arguments have no names"))),
        }
    }
    Ok((name, arguments))
}

impl Sql {
    /// Understands a CALL.
    pub(crate) async fn call(&self, scope: &Scope, call: &Function) -> Result<Change> {
        let (name, arguments) = known_call(call)?;
        if name == "refresh" {
            let [table, column] = arguments.as_slice() else {
                return Err(Error::invalid("refresh: it takes a table and a column"));
            };
            let table = scope.searched(&text(table, "the table")?)?;
            return Ok(Change::Refresh { table, column: text(column, "the column")? });
        }
        let understood = self.understand_call(scope, &name, &arguments).await;
        let (table, change) = understood.map_err(|error| error.context(name))?;
        Ok(Change::History { table, change })
    }

    async fn understand_call(
        &self,
        scope: &Scope,
        name: &str,
        arguments: &[&Expr],
    ) -> Result<(TableId, HistoryChange)> {
        let table = |expr: &Expr| scope.searched(&text(expr, "the table")?);
        let tag = |expr: &Expr| TagName::parse(&text(expr, "the tag")?);
        Ok(match (name, arguments) {
            ("create_tag", [of, named]) => {
                let of = table(of)?;
                let newest = self.lake().table(&of).await?.snapshot(None, &At::Latest).await?;
                (of, HistoryChange::CreateTag(tag(named)?, newest.version()))
            }
            ("create_tag", [of, named, at]) => {
                (table(of)?, HistoryChange::CreateTag(tag(named)?, version(at)?))
            }
            ("move_tag", [of, named, at]) => {
                (table(of)?, HistoryChange::MoveTag(tag(named)?, version(at)?))
            }
            ("delete_tag", [of, named]) => (table(of)?, HistoryChange::DeleteTag(tag(named)?)),
            ("restore", [of, at]) => (table(of)?, HistoryChange::Restore(version(at)?)),
            ("delete_tag", _) => return Err(Error::invalid("it takes a table and a tag")),
            ("restore", _) => return Err(Error::invalid("it takes a table and a version")),
            _ => return Err(Error::invalid("it takes a table, a tag and a version")),
        })
    }
}

fn version(expr: &Expr) -> Result<u64> {
    match value_of(expr) {
        Some(Value::Number(number, _)) => number.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| Error::invalid("a version has to be a whole number"))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Ast {
        Parser::parse_sql(&GenericDialect {}, sql).unwrap().remove(0)
    }

    #[test]
    fn a_list_becomes_a_table() {
        let mut statement = parsed("SELECT * FROM Versions('ns$t') v JOIN tags('t') ON true, tags");
        let found = take_histories(&mut statement).unwrap();
        let sql = statement.to_string();
        assert!(sql.contains("\"history 0\" v") && sql.contains("\"history 1\" AS tags"), "{sql}");
        assert_eq!((found[0].table.as_str(), found[0].listed), ("ns$t", Listed::Versions));
        assert_eq!(found.len(), 2, "a table of that name");
        assert!(take_histories(&mut parsed("SELECT * FROM tags('t', 1)")).is_err());
    }

    #[test]
    fn calls_are_known_by_name() {
        let call = |sql: &str| match parsed(sql) {
            Ast::Call(call) => (check_call(&call).is_ok(), called_table(&call)),
            other => panic!("{other}"),
        };
        assert_eq!(call("CALL create_tag('t', 'gold', 7)"), (true, Some("t".to_owned())));
        assert_eq!(call("CALL RESTORE('ns$t', 7)"), (true, Some("ns$t".to_owned())));
        assert_eq!(call("CALL drop_everything('t')"), (false, None));
    }
}
