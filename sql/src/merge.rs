//! MERGE as one merge of storage: rows out of the source, and a rule for those that match and those that
//! do not.
//!
//! ```text
//!   USING source     ──► SELECT expression AS column, … ──► rows ─┐
//!   ON t.key = s.key ──► keys ────────────────────────────────────┼──► one version
//!   WHEN …           ──► rule ────────────────────────────────────┘
//! ```
//!
//! Storage writes what was sent, whether a row is updated or inserted. So where both happen, both give a
//! column the same expression, and expressions are over the source.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, Expr, Ident, Merge, MergeAction, MergeClause,
    MergeClauseKind, MergeInsertExpr, MergeInsertKind, MergeUpdateExpr, Query, SelectItem, SetExpr,
    Statement as Ast, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lakebed_storage::{Matched, MergeRule};

use crate::expression::{self, Bound};
use crate::names::{Scope, parts_of};

/// A MERGE that is understood.
#[derive(Debug)]
pub(crate) struct Understood {
    pub(crate) table: TableId,
    /// The key columns.
    pub(crate) on: Vec<String>,
    pub(crate) rule: MergeRule,
    /// The rows, under the names of the table's columns.
    pub(crate) rows: Query,
}

/// The table that a MERGE changes.
pub(crate) fn target(scope: &Scope, merge: &Merge) -> Result<TableId> {
    match &merge.table {
        TableFactor::Table { name, args: None, .. } => scope.table_of(name),
        _ => Err(not_built("MERGE INTO anything but a table is not built")),
    }
}

/// Understands a MERGE into a table of these columns.
///
/// # Errors
/// `NotImplemented` naming what cannot be done as one merge; `InvalidArgument` for what contradicts itself.
pub(crate) fn merge(
    scope: &Scope,
    merge: &Merge,
    columns: &[String],
    bound: &Bound,
) -> Result<Understood> {
    if merge.output.is_some() || !merge.optimizer_hints.is_empty() {
        return Err(not_built("MERGE with OUTPUT or hints is not built"));
    }
    let table = target(scope, merge)?;
    let own = side_name(&merge.table)?.unwrap_or_else(|| table.name.to_string());
    if side_name(&merge.source)?.as_ref() == Some(&own) {
        return Err(Error::invalid(format!("both sides of the MERGE are called `{own}`")));
    }
    let sides = Sides { own };
    let keys = sides.keys(&merge.on)?;
    let mut clauses = Clauses::default();
    for clause in &merge.clauses {
        clauses.take(clause, &sides, columns, bound)?;
    }
    let sent = clauses.sent(&keys)?;
    let matched = match (&clauses.update, &clauses.update_if) {
        (None, _) => Matched::Keep,
        (Some(_), None) => Matched::Update,
        (Some(_), Some(condition)) => Matched::UpdateIf(sides.condition(condition, &sent, bound)?),
    };
    let rule = MergeRule {
        matched,
        insert_new: clauses.insert.is_some(),
        delete_unsent: clauses.delete_unsent,
        use_index: true,
    };
    let rows = rows(sent, merge.source.clone(), clauses.insert_if)?;
    Ok(Understood { table, on: keys.into_iter().map(|(column, _)| column).collect(), rule, rows })
}

/// A column of the table and the expression that gives its value.
type Value = (String, Expr);

/// Tells the table's side from that of the source.
struct Sides {
    /// What columns of the table are qualified with.
    own: String,
}

impl Sides {
    /// The pairs of `ON t.a = s.a AND …`.
    fn keys(&self, on: &Expr) -> Result<Vec<Value>> {
        match on {
            Expr::Nested(inner) => self.keys(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                Ok([self.keys(left)?, self.keys(right)?].concat())
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                for (key, value) in [(left, right), (right, left)] {
                    if let Some(column) = self.own_column(key)
                        && !self.names_own(value)
                    {
                        return Ok(vec![(column, value.as_ref().clone())]);
                    }
                }
                Err(self.no_key(on))
            }
            other => Err(self.no_key(other)),
        }
    }

    fn no_key(&self, found: &Expr) -> Error {
        not_built(format!(
            "MERGE joins by `ON {}.column = …` and AND, with columns of the source on the other side; \
             `{found}` is not built",
            self.own
        ))
    }

    fn own_column(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] if table.value == self.own => Some(column.value.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether an expression names a column of the table.
    fn names_own(&self, expr: &Expr) -> bool {
        struct Find<'a>(&'a str);
        impl VisitorMut for Find<'_> {
            type Break = ();
            fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
                match expr {
                    Expr::CompoundIdentifier(parts)
                        if parts.first().is_some_and(|part| part.value == self.0) =>
                    {
                        ControlFlow::Break(())
                    }
                    _ => ControlFlow::Continue(()),
                }
            }
        }
        expr.clone().visit(&mut Find(&self.own)).is_break()
    }

    /// A value that comes from the source alone.
    fn value(&self, column: String, expr: &Expr) -> Result<Value> {
        if self.names_own(expr) {
            return Err(not_built(format!(
                "column `{column}`: MERGE writes values of the source; `{expr}` names `{}`",
                self.own
            )));
        }
        Ok((column, expr.clone()))
    }

    /// A condition over both sides in storage's words, which knows the source by what is sent of it.
    fn condition(&self, condition: &Expr, sent: &[Value], bound: &Bound) -> Result<String> {
        struct Rename<'a> {
            sides: &'a Sides,
            sent: &'a [Value],
        }
        impl VisitorMut for Rename<'_> {
            type Break = Error;
            fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
                let unknown = |name: &str| {
                    ControlFlow::Break(not_built(format!(
                        "`{name}` in a condition of MERGE: name columns of the table, or of the source \
                         that the MERGE writes, each with the name of its side"
                    )))
                };
                let text = expr.to_string();
                match expr {
                    Expr::Identifier(_) => return unknown(&text),
                    Expr::CompoundIdentifier(parts) => {
                        let Some(first) = parts.first_mut() else { return unknown(&text) };
                        if first.value == self.sides.own {
                            *first = Ident::new("target");
                            return ControlFlow::Continue(());
                        }
                        let found = self.sent.iter().find(|(_, value)| value.to_string() == text);
                        let Some((column, _)) = found else { return unknown(&text) };
                        *parts = vec![Ident::new("source"), Ident::new(column)];
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            }
        }
        let mut condition = condition.clone();
        if let ControlFlow::Break(error) = condition.visit(&mut Rename { sides: self, sent }) {
            return Err(error);
        }
        expression::text(&condition, None, bound)
    }
}

/// The clauses, each at most once.
#[derive(Default)]
struct Clauses {
    update: Option<Vec<Value>>,
    update_if: Option<Expr>,
    insert: Option<Vec<Value>>,
    insert_if: Option<Expr>,
    delete_unsent: Option<Option<String>>,
}

impl Clauses {
    fn take(
        &mut self,
        clause: &MergeClause,
        sides: &Sides,
        columns: &[String],
        bound: &Bound,
    ) -> Result<()> {
        use MergeClauseKind as Kind;
        let condition = clause.predicate.clone();
        let is_first = match (clause.clause_kind, &clause.action) {
            (Kind::Matched, MergeAction::Update(update)) => {
                self.update_if = condition;
                self.update.replace(sets(update, sides)?).is_none()
            }
            (Kind::NotMatched | Kind::NotMatchedByTarget, MergeAction::Insert(insert)) => {
                self.insert_if = condition;
                self.insert.replace(inserted(insert, sides, columns)?).is_none()
            }
            (Kind::NotMatchedBySource, MergeAction::Delete { .. }) => {
                let text = |condition| expression::text(&condition, Some(&sides.own), bound);
                self.delete_unsent.replace(condition.map(text).transpose()?).is_none()
            }
            (kind, _) => {
                return Err(not_built(format!(
                    "MERGE takes WHEN MATCHED THEN UPDATE, WHEN NOT MATCHED THEN INSERT and WHEN NOT \
                     MATCHED BY SOURCE THEN DELETE; `WHEN {kind} THEN {}` is not built",
                    clause.action
                )));
            }
        };
        match is_first {
            true => Ok(()),
            false => Err(not_built(format!("MERGE with two clauses WHEN {}", clause.clause_kind))),
        }
    }

    /// What is sent for each row of the source: its key, and what is written.
    fn sent(&self, keys: &[Value]) -> Result<Vec<Value>> {
        let is_key = |column: &str| keys.iter().any(|(key, _)| key == column);
        for (column, value) in self.update.iter().chain(&self.insert).flatten() {
            let key = keys.iter().find(|(key, _)| key == column);
            if key.is_some_and(|(_, key)| key.to_string() != value.to_string()) {
                return Err(Error::invalid(format!(
                    "column `{column}` is a key of the MERGE; it cannot become `{value}`"
                )));
            }
        }
        if let Some(insert) = &self.insert
            && let Some((key, _)) =
                keys.iter().find(|(key, _)| insert.iter().all(|(column, _)| column != key))
        {
            return Err(Error::invalid(format!("the INSERT of the MERGE gives no `{key}`")));
        }
        if let (Some(update), Some(insert)) = (&self.update, &self.insert) {
            let differs = |one: &[Value], other: &[Value]| {
                one.iter()
                    .find(|(column, value)| {
                        !is_key(column)
                            && !other.iter().any(|(named, given)| {
                                named == column && given.to_string() == value.to_string()
                            })
                    })
                    .map(|(column, _)| column.clone())
            };
            if let Some(column) = differs(update, insert).or_else(|| differs(insert, update)) {
                return Err(not_built(format!(
                    "MERGE writes the same values whether a row is updated or inserted; column \
                     `{column}` is not given alike"
                )));
            }
        }
        if self.insert_if.is_some() && (self.update.is_some() || self.delete_unsent.is_some()) {
            return Err(not_built(
                "MERGE with a condition on INSERT beside another clause; filter the source instead",
            ));
        }
        let mut sent = keys.to_vec();
        let written = self.update.as_ref().or(self.insert.as_ref()).into_iter().flatten();
        sent.extend(written.filter(|(column, _)| !is_key(column)).cloned());
        Ok(sent)
    }
}

fn sets(update: &MergeUpdateExpr, sides: &Sides) -> Result<Vec<Value>> {
    if update.update_predicate.is_some() || update.delete_predicate.is_some() {
        return Err(not_built("WHERE inside of MERGE's UPDATE is not built; WHEN MATCHED AND is"));
    }
    let of = |Assignment { target, value }: &Assignment| {
        let AssignmentTarget::ColumnName(column) = target else {
            return Err(not_built("UPDATE of several columns at once is not built"));
        };
        let mut parts = parts_of(column)?;
        if parts.len() > 1 && parts.first() == Some(&sides.own) {
            parts.remove(0);
        }
        match <[String; 1]>::try_from(parts) {
            Ok([column]) => sides.value(column, value),
            Err(_) => Err(not_built("UPDATE of a part of a column is not built")),
        }
    };
    update.assignments.iter().map(of).collect()
}

fn inserted(insert: &MergeInsertExpr, sides: &Sides, columns: &[String]) -> Result<Vec<Value>> {
    let MergeInsertKind::Values(values) = &insert.kind else {
        return Err(not_built("MERGE with INSERT ROW is not built; INSERT (…) VALUES (…) is"));
    };
    if insert.insert_predicate.is_some() {
        return Err(not_built("WHERE inside of MERGE's INSERT is not built"));
    }
    let [row] = values.rows.as_slice() else {
        return Err(Error::invalid("the INSERT of a MERGE has one row of VALUES"));
    };
    let named: Vec<String> = match insert.columns.is_empty() {
        true => columns.to_vec(),
        false => {
            let last = |name| parts_of(name).map(|mut parts| parts.pop().unwrap_or_default());
            insert.columns.iter().map(last).collect::<Result<_>>()?
        }
    };
    let row: &[Expr] = row.as_ref();
    if named.len() != row.len() {
        return Err(Error::invalid(format!(
            "the INSERT of the MERGE names {} columns and gives {} values",
            named.len(),
            row.len()
        )));
    }
    named.into_iter().zip(row).map(|(column, value)| sides.value(column, value)).collect()
}

/// `SELECT value AS column, … FROM source WHERE condition`.
fn rows(sent: Vec<Value>, source: TableFactor, condition: Option<Expr>) -> Result<Query> {
    let unexpected = || Error::internal("the query of a MERGE was read as something else");
    let parsed = Parser::parse_sql(&GenericDialect {}, "SELECT a FROM b").map_err(|_| unexpected());
    let Some(Ast::Query(mut query)) = parsed?.pop() else { return Err(unexpected()) };
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(unexpected()) };
    let item = |(column, expr): Value| SelectItem::ExprWithAlias {
        expr,
        alias: Ident::with_quote('"', column),
    };
    select.projection = sent.into_iter().map(item).collect();
    select.from.first_mut().ok_or_else(unexpected)?.relation = source;
    select.selection = condition;
    Ok(*query)
}

/// The name that the columns of a side are qualified with, where it has one.
fn side_name(side: &TableFactor) -> Result<Option<String>> {
    let alias = match side {
        TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => alias.as_ref(),
        _ => return Err(not_built("MERGE of anything but a table or a query is not built")),
    };
    match (alias, side) {
        (Some(alias), _) => Ok(Some(alias.name.value.clone())),
        (None, TableFactor::Table { name, .. }) => Ok(parts_of(name)?.pop()),
        (None, _) => Ok(None),
    }
}

fn not_built(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotImplemented, what.into())
}

#[cfg(test)]
mod tests {
    use lakebed_core::DatabaseName;

    use super::*;

    fn understood(text: &str) -> Result<Understood> {
        let tree = Parser::parse_sql(&GenericDialect {}, text).unwrap().pop();
        let Some(Ast::Merge(tree)) = tree else { panic!("{text}") };
        let scope = Scope::new(&DatabaseName::default_database(), None).unwrap();
        let columns = ["id", "label", "speed"].map(str::to_owned);
        merge(&scope, &tree, &columns, &Bound::default())
    }

    #[test]
    fn an_upsert_is_understood() {
        let merge = understood(
            "MERGE INTO t USING (SELECT * FROM news) AS s ON t.id = s.key \
             WHEN MATCHED AND t.speed < s.v THEN UPDATE SET label = upper(s.l), speed = s.v \
             WHEN NOT MATCHED THEN INSERT (id, label, speed) VALUES (s.key, upper(s.l), s.v) \
             WHEN NOT MATCHED BY SOURCE AND t.label = 'old' THEN DELETE",
        )
        .unwrap();
        assert_eq!(merge.on, ["id"]);
        assert_eq!(
            merge.rule,
            MergeRule {
                matched: Matched::UpdateIf("`target`.`speed` < `source`.`speed`".to_owned()),
                insert_new: true,
                delete_unsent: Some(Some("`label` = 'old'".to_owned())),
                use_index: true,
            }
        );
        assert_eq!(
            merge.rows.to_string(),
            "SELECT s.key AS \"id\", upper(s.l) AS \"label\", s.v AS \"speed\" \
             FROM (SELECT * FROM news) AS s"
        );
    }

    #[test]
    fn each_clause_stands_alone() {
        let update = "MERGE INTO t USING s ON s.id = t.id WHEN MATCHED THEN UPDATE SET speed = 1";
        let merge = understood(update).unwrap();
        assert_eq!((merge.rule.matched, merge.rule.insert_new), (Matched::Update, false));
        assert_eq!(merge.rows.to_string(), "SELECT s.id AS \"id\", 1 AS \"speed\" FROM s");
        let insert = "MERGE INTO t USING s ON t.id = s.id \
                      WHEN NOT MATCHED AND s.v > 2 THEN INSERT VALUES (s.id, s.l, s.v)";
        let merge = understood(insert).unwrap();
        assert_eq!((merge.rule.matched, merge.rule.insert_new), (Matched::Keep, true));
        assert!(merge.rows.to_string().ends_with("FROM s WHERE s.v > 2"));
    }

    #[test]
    fn what_one_merge_cannot_do_is_refused_by_name() {
        for (clauses, named) in [
            ("WHEN MATCHED THEN DELETE", "MATCHED THEN DELETE"),
            ("WHEN MATCHED THEN UPDATE SET speed = t.speed + s.v", "t.speed"),
            ("WHEN MATCHED THEN UPDATE SET id = s.v", "id"),
            ("WHEN MATCHED AND s.other THEN UPDATE SET speed = s.v", "s.other"),
            ("WHEN NOT MATCHED THEN INSERT (label) VALUES (s.l)", "id"),
            ("WHEN NOT MATCHED THEN INSERT (id, label) VALUES (s.id)", "2 columns"),
            (
                "WHEN MATCHED THEN UPDATE SET speed = s.v \
                 WHEN NOT MATCHED THEN INSERT (id, speed) VALUES (s.id, 0)",
                "speed",
            ),
        ] {
            let text = format!("MERGE INTO t USING s ON t.id = s.id {clauses}");
            let error = understood(&text).unwrap_err();
            assert!(error.message().contains(named), "{clauses}: {error}");
        }
        for on in ["t.id > s.id", "t.id = t.other", "id = s.id", "t.id = s.id OR s.a"] {
            let text =
                format!("MERGE INTO t USING s ON {on} WHEN MATCHED THEN UPDATE SET speed = 1");
            assert_eq!(understood(&text).unwrap_err().kind(), ErrorKind::NotImplemented, "{on}");
        }
    }
}
