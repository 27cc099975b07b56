//! The materialized views of a namespace as a table: `materialized_views()`.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Statement as Ast, TableFactor,
    TableFunctionArgs, VisitMut, VisitorMut,
};
use lakebed_core::{DatabaseName, Error, Result, Subject, TableId};
use lakebed_storage::{At, Lake, MaterializedView};

use crate::error::from_datafusion;
use crate::names::Scope;
use crate::parse::simple_name;
use crate::search::alias_of;

const FUNCTION: &str = "materialized_views";
/// A name with a space is no table's.
const PREFIX: &str = "materialized views ";

/// A list that a statement reads.
#[derive(Debug)]
pub(crate) struct CalledList {
    /// The name of the table that stands for it.
    pub(crate) name: String,
    /// The only view that is asked for.
    pub(crate) of: Option<ObjectName>,
}

/// Takes the lists out of a statement and puts names in their places.
///
/// # Errors
/// `InvalidArgument` for arguments that are not understood.
pub(crate) fn take_lists(statement: &mut Ast) -> Result<Vec<CalledList>> {
    let mut calls = Calls { found: Vec::new() };
    match statement.visit(&mut calls) {
        ControlFlow::Continue(()) => Ok(calls.found),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Calls {
    found: Vec<CalledList>,
}

impl VisitorMut for Calls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, args, .. } = factor else {
            return ControlFlow::Continue(());
        };
        if !simple_name(name).is_some_and(|name| name.eq_ignore_ascii_case(FUNCTION)) {
            return ControlFlow::Continue(());
        }
        let Some(given) = args.take() else { return ControlFlow::Continue(()) };
        match named(&given) {
            Ok(of) => {
                let stand_in = format!("{PREFIX}{}", self.found.len());
                *name = ObjectName::from(vec![Ident::with_quote('"', stand_in.clone())]);
                alias.get_or_insert_with(|| alias_of(FUNCTION));
                self.found.push(CalledList { name: stand_in, of });
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error.context(FUNCTION)),
        }
    }
}

fn named(given: &TableFunctionArgs) -> Result<Option<ObjectName>> {
    let parts = match given.args.as_slice() {
        [] => return Ok(None),
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => match expr {
            Expr::Identifier(ident) => vec![ident.clone()],
            Expr::CompoundIdentifier(parts) => parts.clone(),
            _ => return Err(Error::invalid("its argument is the name of a materialized view")),
        },
        _ => return Err(Error::invalid("it takes the name of a materialized view, or nothing")),
    };
    Ok(Some(ObjectName::from(parts)))
}

/// A list as a table.
///
/// # Errors
/// `NotFound` for the name of no materialized view.
pub(crate) async fn views_table(
    lake: &Lake,
    scope: &Scope,
    list: &CalledList,
) -> Result<Arc<dyn TableProvider>> {
    let views: Vec<(TableId, MaterializedView)> = match &list.of {
        None => {
            let database = DatabaseName::parse(scope.database())?;
            lake.list_materialized_views(&database, Some(&scope.namespace()?)).await?
        }
        Some(name) => {
            let id = scope.table_of(name)?;
            let table = lake.table(&id).await.map_err(|error| error.about(Subject::Table))?;
            let view = table.snapshot(None, &At::Latest).await?.materialized_view()?;
            let view = view.ok_or_else(|| {
                let message = format!("table `{}` is no materialized view", id.text());
                Error::not_found(message).about(Subject::Table)
            })?;
            vec![(id, view)]
        }
    };
    let names = StringArray::from_iter_values(views.iter().map(|(id, _)| id.name.as_str()));
    let queries = StringArray::from_iter_values(views.iter().map(|(_, view)| &view.query));
    let sources = StringArray::from_iter_values(views.iter().map(|(_, view)| &view.source));
    let number = |version: u64| i64::try_from(version).unwrap_or(i64::MAX);
    let versions: Int64Array =
        views.iter().map(|(_, view)| view.source_version.map(number)).collect();
    let times: TimestampMillisecondArray =
        views.iter().map(|(_, view)| view.refreshed_at_ms).collect();
    let columns: [(&str, ArrayRef, bool); 5] = [
        ("name", Arc::new(names), false),
        ("query", Arc::new(queries), false),
        ("source", Arc::new(sources), false),
        ("source_version", Arc::new(versions), true),
        ("refreshed_at", Arc::new(times.with_timezone("UTC")), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns)
        .map_err(|error| Error::internal("a list cannot be built").with_source(error))?;
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(from_datafusion)?;
    Ok(Arc::new(table))
}
