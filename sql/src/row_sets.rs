//! Row sets in SQL: `row_set` as a table that has only the rows of one.
//!
//! ```text
//!   FROM row_set('frames', 'gold@2') AS f
//!   FROM row_set('frames VERSION AS OF 7', 'gold')
//! ```
//!
//! Why a table and no condition: a set belongs to one table, and which rows it has must be known before the
//! scan is planned, so that only these are read. Everything else that a table can do, it does: the system's
//! columns, blobs, joins. A call is taken out of the statement before it is planned, as searches are.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    FunctionArg, FunctionArgExpr, Ident, ObjectName, Statement as Ast, TableFactor,
    TableFunctionArgs, VisitMut, VisitorMut,
};
use lakebed_core::{Error, Result, RowSetRef, TableId};
use lakebed_storage::{At, RowMask, Snapshot};

use crate::engine::Sql;
use crate::parse::simple_name;
use crate::plan::PinnedTable;
use crate::search::{alias_of, text};
use crate::time_travel;
use crate::views::Reads;

const ROW_SET: &str = "row_set";
/// A name with a space is no table's.
const PREFIX: &str = "row set ";

/// A row set that a statement reads.
#[derive(Debug)]
pub(crate) struct NamedSet {
    /// The name of the table that stands for it.
    pub(crate) name: String,
    /// The table, as the statement names it.
    pub(crate) table: String,
    /// The version of the table.
    pub(crate) at: At,
    /// The set, as the statement names it.
    pub(crate) wanted: String,
}

/// Takes the row sets out of a statement and puts names in their places.
///
/// # Errors
/// `InvalidArgument` for arguments that are not understood.
pub(crate) fn take_row_sets(statement: &mut Ast) -> Result<Vec<NamedSet>> {
    let mut calls = Calls { found: Vec::new() };
    match statement.visit(&mut calls) {
        ControlFlow::Continue(()) => Ok(calls.found),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Calls {
    found: Vec<NamedSet>,
}

impl VisitorMut for Calls {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, args, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let is_set = simple_name(name).is_some_and(|name| name.eq_ignore_ascii_case(ROW_SET));
        let Some(given) = args.take_if(|_| is_set) else { return ControlFlow::Continue(()) };
        let stand_in = format!("{PREFIX}{}", self.found.len());
        match named(&given, stand_in.clone()) {
            Ok(set) => {
                *name = ObjectName::from(vec![Ident::with_quote('"', stand_in)]);
                alias.get_or_insert_with(|| alias_of(ROW_SET));
                self.found.push(set);
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error.context(ROW_SET)),
        }
    }
}

fn named(given: &TableFunctionArgs, name: String) -> Result<NamedSet> {
    let [
        FunctionArg::Unnamed(FunctionArgExpr::Expr(table)),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(set)),
    ] = given.args.as_slice()
    else {
        return Err(Error::invalid(
            "it takes a table and the name of a row set, `NAME` or `NAME@VERSION`",
        ));
    };
    let table = text(table, "the table")?;
    let (table, at) = time_travel::split(&table)?;
    Ok(NamedSet { name, table: table.to_owned(), at, wanted: text(set, "the row set")? })
}

impl Sql {
    /// A row set that a statement names: the version that it stands for, and its rows. A statement that is
    /// planned again has the version that it had.
    pub(crate) async fn row_set(
        &self,
        id: &TableId,
        snapshot: &Snapshot,
        wanted: &str,
        reads: &mut Reads<'_>,
    ) -> Result<(String, Arc<RowMask>)> {
        let mut set = RowSetRef::parse(wanted)?;
        let named = format!("{id} (row set {wanted})");
        let known = reads.row_sets.get(&named);
        let pinned = known.or_else(|| reads.pins?.iter().find(|pin| pin.named == named));
        if let Some(pin) = pinned {
            set.version = Some(pin.version);
        }
        let (found, rows) = snapshot.row_set(&set).await?;
        set.version = Some(found.version);
        let pin = PinnedTable {
            named: named.clone(),
            database: id.database.to_string(),
            uid: snapshot.table().uid().to_owned(),
            branch: None,
            version: found.version,
            view: None,
        };
        reads.row_sets.insert(named, pin);
        Ok((set.to_string(), rows))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn take(sql: &str) -> Result<(String, Vec<NamedSet>)> {
        let mut statement = Parser::parse_sql(&GenericDialect {}, sql)
            .map_err(|e| Error::invalid(e.to_string()))?;
        let found = take_row_sets(&mut statement[0])?;
        Ok((statement[0].to_string(), found))
    }

    #[test]
    fn a_call_becomes_a_table() {
        let (sql, found) =
            take("SELECT id FROM Row_Set('ns.t', 'gold@2') g JOIN row_set('t VERSION AS OF 3', 's') ON 1 = 1")
                .unwrap();
        assert!(
            sql.contains("\"row set 0\" g") && sql.contains("\"row set 1\" AS row_set"),
            "{sql}"
        );
        let [one, other] = found.as_slice() else { panic!("two sets") };
        assert_eq!(
            (one.table.as_str(), &one.at, one.wanted.as_str()),
            ("ns.t", &At::Latest, "gold@2")
        );
        assert_eq!((other.table.as_str(), &other.at), ("t", &At::Version(3)));
        assert!(take("SELECT * FROM row_set").unwrap().1.is_empty());
        for wrong in ["row_set('t')", "row_set(t, 'gold')", "row_set('t', 'gold', 3)"] {
            assert!(take(&format!("SELECT * FROM {wrong}")).is_err(), "{wrong}");
        }
    }
}
