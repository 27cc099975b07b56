//! The change feed in SQL: `changes` as a table.
//!
//! ```text
//!   FROM changes('frames', 7)                      everything behind version 7
//!   FROM changes('frames', 'monday', 9)            from a tag up to version 9
//!   FROM changes('frames', '2026-01-01', '2026-02-01')
//! ```
//!
//! Like a search, a call is taken out of the statement before it is planned, and a table that reads the
//! feed stands in its place. Both versions are pinned with the statement's other tables.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Statement as Ast, TableFactor,
    TableFunctionArgs, Value, VisitMut, VisitorMut,
};
use futures::TryStreamExt;
use lakebed_core::{Error, Result};
use lakebed_storage::{At, ChangesSpec, Snapshot, carry};

use crate::error::from_datafusion;
use crate::parse::simple_name;
use crate::search::{alias_of, text, value_of};
use crate::time_travel::time_of;

const CHANGES: &str = "changes";
/// A name with a space is no table's.
const PREFIX: &str = "changes ";

/// A feed that a statement reads.
#[derive(Debug)]
pub(crate) struct CalledChanges {
    /// The name of the table that stands for it.
    pub(crate) name: String,
    /// The table whose changes are read, as the statement names it.
    pub(crate) table: String,
    /// The version behind which it begins; none for the empty table.
    pub(crate) from: Option<At>,
    /// The version up to which it goes.
    pub(crate) to: At,
}

/// Takes the feeds out of a statement and puts names in their places.
///
/// # Errors
/// `InvalidArgument` for arguments that are not understood.
pub(crate) fn take_changes(statement: &mut Ast) -> Result<Vec<CalledChanges>> {
    let mut calls = Calls { found: Vec::new() };
    match statement.visit(&mut calls) {
        ControlFlow::Continue(()) => Ok(calls.found),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Calls {
    found: Vec<CalledChanges>,
}

impl VisitorMut for Calls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, args, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let is_changes = simple_name(name).is_some_and(|name| name.eq_ignore_ascii_case(CHANGES));
        let Some(given) = args.take_if(|_| is_changes) else {
            return ControlFlow::Continue(());
        };
        match called(&given) {
            Ok((table, from, to)) => {
                let stand_in = format!("{PREFIX}{}", self.found.len());
                *name = ObjectName::from(vec![Ident::with_quote('"', stand_in.clone())]);
                alias.get_or_insert_with(|| alias_of(CHANGES));
                self.found.push(CalledChanges { name: stand_in, table, from, to });
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error.context(CHANGES)),
        }
    }
}

fn called(given: &TableFunctionArgs) -> Result<(String, Option<At>, At)> {
    let mut arguments = Vec::with_capacity(given.args.len());
    for argument in &given.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => arguments.push(expr),
            _ => return Err(Error::invalid("its arguments have no names")),
        }
    }
    let (table, from, to) = match arguments.as_slice() {
        [table, from] => (table, from, None),
        [table, from, to] => (table, from, Some(to)),
        _ => {
            return Err(Error::invalid(
                "it takes a table, the version behind which it begins, and the last one: numbers, tags \
                 or times",
            ));
        }
    };
    let from = Some(point(from)?).filter(|from| *from != At::Version(0));
    let to = to.map_or(Ok(At::Latest), |to| point(to))?;
    Ok((text(table, "the table")?, from, to))
}

fn point(expr: &Expr) -> Result<At> {
    match value_of(expr) {
        Some(Value::Number(number, _)) => number
            .parse()
            .map(At::Version)
            .map_err(|_| Error::invalid(format!("version `{number}` is not a whole number"))),
        // A tag looks like a time only if it was meant to.
        Some(Value::SingleQuotedString(text)) => {
            Ok(time_of(text).map_or_else(|_| At::Tag(text.clone()), At::AsOf))
        }
        _ => {
            Err(Error::invalid("a version has to be a number, or a tag or a time in single quotes"))
        }
    }
}

/// A feed as a table that reads it when it is read.
///
/// # Errors
/// As [`Snapshot::changes`].
pub(crate) async fn changes_table(
    begin: Option<Snapshot>,
    end: Snapshot,
) -> Result<Arc<dyn TableProvider>> {
    let schema = end.changes_schema(begin.as_ref(), &ChangesSpec::default()).await?;
    let feed = Feed { begin, end, schema: Arc::clone(&schema) };
    let table = StreamingTable::try_new(schema, vec![Arc::new(feed)]).map_err(from_datafusion)?;
    Ok(Arc::new(table))
}

#[derive(Debug)]
struct Feed {
    begin: Option<Snapshot>,
    end: Snapshot,
    schema: SchemaRef,
}

impl PartitionStream for Feed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (begin, end) = (self.begin.clone(), self.end.clone());
        let rows = async move {
            let changes = end.changes(begin.as_ref(), &ChangesSpec::default()).await;
            let (_, batches) = changes.map_err(|error| carry(&error))?;
            Ok::<_, DataFusionError>(batches.map_err(|error| carry(&error)))
        };
        let rows = futures::stream::once(rows).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn take(sql: &str) -> Result<(String, Vec<CalledChanges>)> {
        let mut statement = Parser::parse_sql(&GenericDialect {}, sql)
            .map_err(|e| Error::invalid(e.to_string()))?;
        let found = take_changes(&mut statement[0])?;
        Ok((statement[0].to_string(), found))
    }

    #[test]
    fn a_call_becomes_a_table() {
        let (sql, found) =
            take("SELECT * FROM Changes('ns$t', 3, 'gold') c JOIN changes('t', 0) ON true")
                .unwrap();
        assert!(
            sql.contains("\"changes 0\" c") && sql.contains("\"changes 1\" AS changes"),
            "{sql}"
        );
        let [first, second] = found.as_slice() else { panic!("two feeds") };
        assert_eq!((first.table.as_str(), &first.from), ("ns$t", &Some(At::Version(3))));
        assert_eq!(first.to, At::Tag("gold".to_owned()));
        assert_eq!((&second.from, &second.to), (&None, &At::Latest));
        let (_, found) = take("SELECT * FROM changes('t', '2026-01-01 10:00:00')").unwrap();
        assert!(matches!(found[0].from, Some(At::AsOf(_))), "{found:?}");
        assert!(take("SELECT * FROM changes").unwrap().1.is_empty(), "a table of that name");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let refusal = |sql: &str| take(sql).unwrap_err().message().to_owned();
        assert!(refusal("SELECT * FROM changes('t')").contains("takes a table"));
        assert!(refusal("SELECT * FROM changes('t', 1, 2, 3)").contains("takes a table"));
        assert!(refusal("SELECT * FROM changes(t, 1)").contains("the table"));
        assert!(refusal("SELECT * FROM changes('t', 1.5)").contains("whole number"));
        assert!(refusal("SELECT * FROM changes('t', version)").contains("a version has to be"));
    }
}
