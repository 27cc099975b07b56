//! Columns that a table shows only to a statement that names them.
//!
//! Two kinds: the system's columns, such as `_rowid`, and the bytes of blob columns. A call
//! `blob_bytes(image)` becomes a column of the table with that very name, so that the engine reads the
//! bytes where it reads the table, in small groups, and nowhere else. Whatever is shown for a statement's
//! sake must not come out of its `*`, which is what the second half of this file sees to.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, Select, SelectItem, SelectItemQualifiedWildcardKind,
    Statement as Ast, TableFactor, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use lakebed_core::{Error, Result};
use lakebed_storage::{Extras, SYSTEM_COLUMNS};

use crate::names::parts_of;
use crate::parse::simple_name;

const BLOB_BYTES: &str = "blob_bytes";

/// Finds what a statement names beyond stored columns, and turns calls of `blob_bytes` into columns;
/// returns the functions that stand where tables do.
///
/// # Errors
/// `InvalidArgument` for a call whose argument is no column.
pub(crate) fn take_extras(statement: &mut Ast, extras: &mut Extras) -> Result<Vec<String>> {
    let mut named = Named { extras, functions: Vec::new() };
    match statement.visit(&mut named) {
        ControlFlow::Continue(()) => Ok(named.functions),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Named<'a> {
    extras: &'a mut Extras,
    functions: Vec<String>,
}

impl VisitorMut for Named<'_> {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor
            && let Some(name) = simple_name(name)
        {
            self.functions.push(name.to_owned());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::Identifier(ident) => self.see(&ident.value),
            Expr::CompoundIdentifier(parts) => {
                if let Some(ident) = parts.last() {
                    self.see(&ident.value);
                }
            }
            Expr::Function(call) => {
                let is_blob_bytes = simple_name(&call.name)
                    .is_some_and(|name| name.eq_ignore_ascii_case(BLOB_BYTES));
                if is_blob_bytes {
                    match self.column_for(&call.args) {
                        Ok(column) => *expr = column,
                        Err(error) => return ControlFlow::Break(error),
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Named<'_> {
    fn see(&mut self, name: &str) {
        let known = SYSTEM_COLUMNS.contains(&name);
        if known && !self.extras.system.iter().any(|column| column == name) {
            self.extras.system.push(name.to_owned());
        }
    }

    fn column_for(&mut self, arguments: &FunctionArguments) -> Result<Expr> {
        let wrong = || Error::invalid("blob_bytes takes one blob column, as in blob_bytes(image)");
        let FunctionArguments::List(list) = arguments else { return Err(wrong()) };
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_slice() else {
            return Err(wrong());
        };
        let mut parts = match argument {
            Expr::Identifier(ident) => vec![ident.clone()],
            Expr::CompoundIdentifier(parts) => parts.clone(),
            _ => return Err(wrong()),
        };
        let column = parts.pop().ok_or_else(wrong)?.value;
        parts.push(Ident::with_quote('"', Extras::blob_column(&column)));
        if !self.extras.blob_bytes.contains(&column) {
            self.extras.blob_bytes.push(column);
        }
        Ok(match parts.len() {
            1 => Expr::Identifier(parts.remove(0)),
            _ => Expr::CompoundIdentifier(parts),
        })
    }
}

/// Takes hidden columns out of every `*`. `hidden` says them for a table's name as the statement has it,
/// its parts joined by a character that no name has.
///
/// # Errors
/// `InvalidArgument` for a `*` over a join whose columns cannot be told apart by table.
pub(crate) fn hide(statement: &mut Ast, hidden: &HashMap<String, Vec<String>>) -> Result<()> {
    if hidden.values().all(Vec::is_empty) {
        return Ok(());
    }
    match statement.visit(&mut Hide { hidden }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Hide<'a> {
    hidden: &'a HashMap<String, Vec<String>>,
}

impl VisitorMut for Hide<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        match self.select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// A table of a FROM: the name that columns are qualified with, and what it hides.
struct Shown {
    name: Option<ObjectName>,
    hides: Vec<String>,
}

impl Hide<'_> {
    fn select(&self, select: &mut Select) -> Result<()> {
        let has_star = select.projection.iter().any(|item| {
            matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
        });
        if !has_star {
            return Ok(());
        }
        let mut tables = Vec::new();
        let mut is_merged = false;
        for from in &select.from {
            tables.push(self.shown(&from.relation));
            for join in &from.joins {
                is_merged |= merges(join);
                tables.push(self.shown(&join.relation));
            }
        }
        if tables.iter().all(|table| table.hides.is_empty()) {
            return Ok(());
        }
        let mut projection = Vec::with_capacity(select.projection.len());
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::Wildcard(options) => match tables.as_slice() {
                    [table] => {
                        projection.push(SelectItem::Wildcard(without(options, &table.hides)?));
                    }
                    _ if is_merged || tables.iter().any(|table| table.name.is_none()) => {
                        return Err(Error::invalid(
                            "`*` over this join cannot stand beside blob_bytes or a system column; \
                             name the columns, or write `t.*`",
                        ));
                    }
                    _ => {
                        for table in &tables {
                            let Some(name) = table.name.clone() else { continue };
                            let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
                            let options = without(options.clone(), &table.hides)?;
                            projection.push(SelectItem::QualifiedWildcard(kind, options));
                        }
                    }
                },
                SelectItem::QualifiedWildcard(kind, options) => {
                    let hides = match &kind {
                        SelectItemQualifiedWildcardKind::ObjectName(name) => tables
                            .iter()
                            .find(|table| table.name.as_ref().is_some_and(|own| ends(own, name)))
                            .map_or(&[][..], |table| &table.hides),
                        SelectItemQualifiedWildcardKind::Expr(_) => &[],
                    };
                    projection.push(SelectItem::QualifiedWildcard(kind, without(options, hides)?));
                }
                other => projection.push(other),
            }
        }
        select.projection = projection;
        Ok(())
    }

    fn shown(&self, factor: &TableFactor) -> Shown {
        match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let key = parts_of(name).map(|parts| parts.join("\u{1f}")).unwrap_or_default();
                let hides = self.hidden.get(&key).cloned().unwrap_or_default();
                let name = match alias {
                    Some(alias) => ObjectName::from(vec![alias.name.clone()]),
                    None => name.clone(),
                };
                Shown { name: Some(name), hides }
            }
            TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => {
                let name = alias.as_ref().map(|alias| ObjectName::from(vec![alias.name.clone()]));
                Shown { name, hides: Vec::new() }
            }
            _ => Shown { name: None, hides: Vec::new() },
        }
    }
}

/// Whether `short` names the same table as `full`, with fewer parts.
fn ends(full: &ObjectName, short: &ObjectName) -> bool {
    full.0.len() >= short.0.len()
        && full.0.iter().rev().zip(short.0.iter().rev()).all(|(a, b)| {
            let value = |part: &datafusion::sql::sqlparser::ast::ObjectNamePart| {
                part.as_ident().map(|ident| ident.value.clone())
            };
            value(a) == value(b)
        })
}

/// Whether a join shows columns that belong to no single table, or not those of all.
fn merges(join: &Join) -> bool {
    use JoinOperator as J;
    match &join.join_operator {
        J::Join(on)
        | J::Inner(on)
        | J::Left(on)
        | J::LeftOuter(on)
        | J::Right(on)
        | J::RightOuter(on)
        | J::FullOuter(on)
        | J::CrossJoin(on) => {
            matches!(on, JoinConstraint::Using(_) | JoinConstraint::Natural)
        }
        _ => true,
    }
}

fn without(
    mut options: WildcardAdditionalOptions,
    hides: &[String],
) -> Result<WildcardAdditionalOptions> {
    if hides.is_empty() {
        return Ok(options);
    }
    let mut names = match options.opt_exclude.take() {
        None => Vec::new(),
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
    };
    for hidden in hides {
        let name = ObjectName::from(vec![Ident::with_quote('"', hidden)]);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
    Ok(options)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Ast {
        Parser::parse_sql(&GenericDialect {}, sql).unwrap().remove(0)
    }

    fn hidden(sql: &str) -> Result<String> {
        let hides = [
            ("t".to_owned(), vec!["_rowid".to_owned()]),
            ("ns\u{1f}u".to_owned(), vec!["_rowid".to_owned()]),
        ];
        let mut statement = parsed(sql);
        hide(&mut statement, &hides.into_iter().collect())?;
        Ok(statement.to_string())
    }

    #[test]
    fn what_is_named_beyond_stored_columns_is_found() {
        let mut extras = Extras::default();
        let mut statement =
            parsed("SELECT t._rowid, Blob_Bytes(t.img), blob_bytes(\"B c\") FROM t, range(3) AS r");
        let functions = take_extras(&mut statement, &mut extras).unwrap();
        assert_eq!(functions, ["range"]);
        assert_eq!(extras.system, ["_rowid"]);
        assert_eq!(extras.blob_bytes, ["img", "B c"]);
        let text = statement.to_string();
        assert!(text.contains("t.\"blob_bytes(img)\", \"blob_bytes(B c)\""), "{text}");
        for wrong in ["blob_bytes()", "blob_bytes(1)", "blob_bytes(a, b)", "blob_bytes(lower(a))"] {
            let mut statement = parsed(&format!("SELECT {wrong} FROM t"));
            assert!(take_extras(&mut statement, &mut extras).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stars_leave_hidden_columns_out() {
        for (sql, expected) in [
            ("SELECT * FROM t", "SELECT * EXCLUDE (\"_rowid\") FROM t"),
            ("SELECT *, a FROM v", "SELECT *, a FROM v"),
            ("SELECT count(*) FROM t", "SELECT count(*) FROM t"),
            ("SELECT x.* FROM t AS x", "SELECT x.* EXCLUDE (\"_rowid\") FROM t AS x"),
            ("SELECT u.* FROM ns.u", "SELECT u.* EXCLUDE (\"_rowid\") FROM ns.u"),
            (
                "SELECT * FROM t JOIN (SELECT 1) AS s ON a = b",
                "SELECT t.* EXCLUDE (\"_rowid\"), s.* FROM t JOIN (SELECT 1) AS s ON a = b",
            ),
            (
                "SELECT * FROM (SELECT * FROM t) AS s",
                "SELECT * FROM (SELECT * EXCLUDE (\"_rowid\") FROM t) AS s",
            ),
        ] {
            assert_eq!(hidden(sql).unwrap(), expected);
        }
        assert!(hidden("SELECT * FROM t JOIN v USING (a)").is_err());
        assert!(hidden("SELECT * FROM t, (SELECT 1)").is_err());
    }
}
