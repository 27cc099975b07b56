//! What a materialized view may be made of.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use arrow_schema::SchemaRef;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr as PlanExpr, LogicalPlan, Volatility};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, LimitClause, Query, Select, SelectItem, SetExpr, Statement as Ast,
    TableFactor, Value, Visit, Visitor, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use lakebed_core::{Error, ErrorKind, Result, Subject, TableId};
use lakebed_storage::{
    At, Extras, MaterializedView, SOURCE_ROW_ID, SYSTEM_COLUMNS, ScanSpec, Snapshot, carried_error,
    carry,
};

use super::ROW_ID;
use crate::engine::Sql;
use crate::error::from_datafusion;
use crate::names::{Scope, parts_of};
use crate::plan::parameters_of;
use crate::time_travel;
use crate::views::query_of;

/// Bytes of the text of one: each version of the view's table carries it.
const QUERY_BYTES_MAX: usize = 64 << 10;

/// The parts of a query, as they were written.
struct Parts {
    source: TableFactor,
    projection: Vec<SelectItem>,
    filter: Option<Expr>,
    order_by: Option<String>,
    limit: Option<u64>,
}

impl Sql {
    /// Understands the query of a materialized view that is about to be made; its definition, and its
    /// columns.
    ///
    /// # Errors
    /// `InvalidArgument` naming what a materialized view is not made of; `NotFound` for its source or a
    /// column.
    pub async fn check_materialized_view(
        &self,
        scope: &Scope,
        id: &TableId,
        query: &str,
    ) -> Result<(MaterializedView, SchemaRef)> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the query of a materialized view has at most {QUERY_BYTES_MAX} bytes; this one has {}",
                query.len()
            )));
        }
        let parts = parts(&query_of(query, self.limits())?)?;
        let (source_id, source) = self.source(scope, id, &parts.source).await?;
        let projections = projections(&parts, &source).await?;
        let filter = parts.filter.as_ref().map(ToString::to_string);
        let query = text(&parts, &projections, filter.as_deref());
        let mut view = MaterializedView {
            format: MaterializedView::FORMAT,
            query,
            database: id.database.to_string(),
            source: source_id.text(),
            source_uid: source.table().uid().to_owned(),
            source_columns: Vec::new(),
            projections,
            filter,
            order_by: parts.order_by,
            limit: parts.limit,
            source_version: None,
            refreshed_at_ms: None,
        };
        // Without row ids, which would be one more thing that is wrong with an aggregate.
        let planned = self.plan_over_version(&view, &source, false).await?;
        if !parameters_of(&planned.plan)?.is_empty() {
            return Err(Error::invalid("a materialized view takes no parameters"));
        }
        let read = check_plan(&planned.plan)?;
        let columns = source.scan_schema(&ScanSpec::default()).await?;
        let columns = columns.fields().iter().map(|field| field.name());
        let is_read =
            |name: &&String| read.contains(*name) || read.contains(&Extras::blob_column(name));
        view.source_columns = columns.filter(is_read).cloned().collect();
        if view.source_columns.is_empty() {
            return Err(Error::invalid("a materialized view has to read a column of its table"));
        }
        let shown = self.view_rows(&view, &source).await?.schema()?;
        Ok((view, shown))
    }

    /// The table that the query reads, and its newest version.
    async fn source(
        &self,
        scope: &Scope,
        id: &TableId,
        factor: &TableFactor,
    ) -> Result<(TableId, Snapshot)> {
        let TableFactor::Table { name, args: None, .. } = factor else {
            return Err(Error::invalid("a materialized view reads a table, and nothing else"));
        };
        let parts = parts_of(name)?;
        let last = parts.last().map(String::as_str).unwrap_or_default();
        if time_travel::split(last)?.1 != At::Latest {
            return Err(Error::invalid(
                "a materialized view follows its table; a version of it cannot be named",
            ));
        }
        let source = scope.table_of(name)?;
        if source == *id {
            return Err(Error::invalid("the materialized view would read itself"));
        }
        if source.database != id.database {
            return Err(Error::invalid(format!(
                "a materialized view and its table are in one database; `{source}` is in another one"
            )));
        }
        if self.lake().find_view(&source).await?.is_some() {
            return Err(Error::invalid(format!(
                "`{}` is a view; a materialized view reads a table",
                source.text()
            )));
        }
        let table =
            self.lake().table(&source).await.map_err(|error| error.about(Subject::Table))?;
        Ok((source, table.snapshot(None, &At::Latest).await?))
    }
}

/// Takes a query apart.
fn parts(tree: &DfStatement) -> Result<Parts> {
    let query = match tree {
        DfStatement::Statement(statement) => match statement.as_ref() {
            Ast::Query(query) => query.as_ref(),
            _ => return Err(Error::invalid("a materialized view is made of a query")),
        },
        _ => return Err(Error::invalid("a materialized view is made of a query")),
    };
    let refused = |what: &str| Err(Error::invalid(format!("a materialized view has no {what}")));
    if query.with.is_some() {
        return refused("WITH: it reads one table");
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        return refused("UNION, VALUES and the like: it is one SELECT over one table");
    };
    let is_grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(keys, more) => !keys.is_empty() || !more.is_empty(),
    };
    if is_grouped || select.having.is_some() {
        return refused("GROUP BY: each of its rows is made of one row of its table");
    }
    if select.distinct.is_some() {
        return refused("DISTINCT: each of its rows is made of one row of its table");
    }
    if !select.named_window.is_empty() || select.qualify.is_some() {
        return refused("windows: each of its rows is made of one row of its table");
    }
    let from = match select.from.as_slice() {
        [from] => from,
        [] => return Err(Error::invalid("a materialized view reads a table")),
        _ => return refused("joins: it reads one table"),
    };
    if !from.joins.is_empty() {
        return refused("joins: it reads one table");
    }
    let limit = match &query.limit_clause {
        None => None,
        Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by })
            if limit_by.is_empty() =>
        {
            let literal = match limit {
                Expr::Value(value) => match &value.value {
                    Value::Number(number, _) => number.parse::<u64>().ok(),
                    _ => None,
                },
                _ => None,
            };
            Some(literal.ok_or_else(|| Error::invalid("LIMIT has to be a whole number"))?)
        }
        Some(_) => return refused("OFFSET, and a LIMIT that is a number"),
    };
    let order_by = query.order_by.as_ref().map(ToString::to_string);
    if order_by.is_some() && limit.is_none() {
        return refused("ORDER BY without a LIMIT: rows of a table come in no order");
    }
    let plain = plain(query, select);
    if plain != query.to_string() {
        return Err(Error::invalid(
            "a materialized view is SELECT … FROM … WHERE … ORDER BY … LIMIT; other clauses are not built",
        ));
    }
    Ok(Parts {
        source: from.relation.clone(),
        projection: select.projection.clone(),
        filter: select.selection.clone(),
        order_by: order_by.map(|text| text.trim_start_matches("ORDER BY ").to_owned()),
        limit,
    })
}

/// The query with nothing but the clauses that are understood.
fn plain(query: &Query, select: &Select) -> String {
    let items: Vec<String> = select.projection.iter().map(ToString::to_string).collect();
    let from: Vec<String> = select.from.iter().map(ToString::to_string).collect();
    let mut text = format!("SELECT {} FROM {}", items.join(", "), from.join(", "));
    if let Some(filter) = &select.selection {
        text.push_str(&format!(" WHERE {filter}"));
    }
    if let Some(order) = &query.order_by {
        text.push_str(&format!(" {order}"));
    }
    if let Some(limit) = &query.limit_clause {
        text.push_str(&format!("{limit}"));
    }
    text
}

/// The query, every column by its name.
fn text(parts: &Parts, projections: &[(String, String)], filter: Option<&str>) -> String {
    let items = projections.iter().map(|(name, expression)| {
        let name = quoted(name);
        match *expression == name {
            true => name,
            false => format!("{expression} AS {name}"),
        }
    });
    let items: Vec<String> = items.collect();
    let mut text = format!("SELECT {} FROM {}", items.join(", "), parts.source);
    if let Some(filter) = filter {
        text.push_str(&format!(" WHERE {filter}"));
    }
    if let Some(order) = &parts.order_by {
        text.push_str(&format!(" ORDER BY {order}"));
    }
    if let Some(limit) = parts.limit {
        text.push_str(&format!(" LIMIT {limit}"));
    }
    text
}

/// A name as it may stand in a query.
fn quoted(name: &str) -> String {
    let is_word = |name: &str| {
        let mut letters = name.bytes();
        letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
            && letters.all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_')
    };
    match is_word(name) && names_itself(name) {
        true => name.to_owned(),
        // As the SDKs of LanceDB write them.
        false => format!("`{}`", name.replace('`', "``")),
    }
}

/// Whether a word without quotes is a column and no word of the language.
fn names_itself(word: &str) -> bool {
    let parsed = Parser::parse_sql(&GenericDialect {}, &format!("SELECT {word} FROM t"));
    let Ok([Ast::Query(query)]) = parsed.as_deref() else { return false };
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(Expr::Identifier(ident))] => ident.value == word,
        _ => false,
    }
}

/// The columns of the view: their names, and what gives their values.
async fn projections(parts: &Parts, source: &Snapshot) -> Result<Vec<(String, String)>> {
    let stored = source.scan_schema(&ScanSpec::default()).await?;
    let mut columns: Vec<(String, String)> = Vec::new();
    for item in &parts.projection {
        match item {
            SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
                if !is_bare(options) {
                    return Err(Error::invalid(
                        "`*` of a materialized view takes no EXCLUDE and the like; name the columns",
                    ));
                }
                for field in stored.fields().iter().filter(|it| it.name() != SOURCE_ROW_ID) {
                    columns.push((field.name().clone(), shown(field.name(), None, source)));
                }
            }
            SelectItem::UnnamedExpr(expr) => match column_of(expr) {
                Some(ident) => {
                    let name = ident.value.clone();
                    columns.push((name.clone(), shown(&name, Some(expr), source)));
                }
                None => {
                    let message = format!("`{expr}` needs a name in a materialized view; write AS");
                    return Err(Error::invalid(message));
                }
            },
            SelectItem::ExprWithAlias { expr, alias } => {
                let column = column_of(expr).map(|ident| ident.value.clone());
                let value = match column {
                    Some(column) => shown(&column, Some(expr), source),
                    None => expr.to_string(),
                };
                columns.push((alias.value.clone(), value));
            }
            other => {
                let message = format!("`{other}` cannot stand in a materialized view");
                return Err(Error::invalid(message));
            }
        }
    }
    let mut names = BTreeSet::new();
    for (name, _) in &columns {
        if name == SOURCE_ROW_ID {
            return Err(Error::invalid(format!(
                "column `{name}` of a materialized view is the system's; give yours another name"
            )));
        }
        if !names.insert(name) {
            return Err(Error::invalid(format!(
                "a materialized view cannot have two columns `{name}`; name them with AS"
            )));
        }
    }
    let mut named = Named;
    let exprs = parts.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    for expr in exprs.chain(&parts.filter) {
        if let ControlFlow::Break(error) = expr.visit(&mut named) {
            return Err(error);
        }
    }
    Ok(columns)
}

/// Whether a `*` stands alone; its tokens, which are kept for messages, differ.
fn is_bare(options: &WildcardAdditionalOptions) -> bool {
    options.to_string().is_empty()
}

/// A column as the view shows it: of a blob column its bytes, which the view stores as a blob of its own.
fn shown(column: &str, written: Option<&Expr>, source: &Snapshot) -> String {
    let text = match written {
        Some(Expr::CompoundIdentifier(parts)) => {
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            parts.join(".")
        }
        Some(Expr::Identifier(ident)) if ident.quote_style.is_some() => ident.to_string(),
        _ => quoted(column),
    };
    match source.is_blob(column) {
        true => format!("blob_bytes({text})"),
        false => text,
    }
}

/// The column that an expression is, and nothing else.
fn column_of(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(parts) => parts.last(),
        _ => None,
    }
}

/// Refuses columns that differ between two ways of storing the same rows.
struct Named;

impl Visitor for Named {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        let name = column_of(expr).map(|ident| ident.value.as_str()).unwrap_or_default();
        match SYSTEM_COLUMNS.contains(&name) && name != ROW_ID {
            false => ControlFlow::Continue(()),
            true => ControlFlow::Break(Error::invalid(format!(
                "column `{name}` says how a row is stored and not what it is; a materialized view cannot \
                 show it"
            ))),
        }
    }
}

/// Refuses a plan that looks at several rows at once or at what is no value of a row; the names of the
/// columns that it reads.
fn check_plan(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut read = BTreeSet::new();
    let refused = |what: String| {
        let message = format!("a materialized view cannot have {what}");
        Err(carry(&Error::invalid(message)))
    };
    let walked = plan.apply(|node| {
        match node {
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::TableScan(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_) => {}
            LogicalPlan::Aggregate(_) => {
                return refused("aggregates: each of its rows is made of one row".to_owned());
            }
            LogicalPlan::Window(_) => {
                return refused("windows: each of its rows is made of one row".to_owned());
            }
            LogicalPlan::Unnest(_) => {
                return refused("UNNEST: each of its rows is made of one row".to_owned());
            }
            other => {
                let what = other.display().to_string();
                let what = what.split([':', ' ']).next().unwrap_or_default().to_owned();
                return refused(format!("{what}: it is one SELECT over one table"));
            }
        }
        for expr in node.expressions() {
            expr.apply(|expr| match expr {
                PlanExpr::Column(column) => {
                    read.insert(column.name.clone());
                    Ok(TreeNodeRecursion::Continue)
                }
                PlanExpr::ScalarFunction(call)
                    if call.func.signature().volatility != Volatility::Immutable =>
                {
                    let name = call.func.name();
                    refused(format!("`{name}`: it does not give the same value each time"))
                }
                PlanExpr::ScalarSubquery(_)
                | PlanExpr::InSubquery(_)
                | PlanExpr::Exists(_)
                | PlanExpr::SetComparison(_)
                | PlanExpr::OuterReferenceColumn(..) => refused("subqueries".to_owned()),
                PlanExpr::AggregateFunction(_) => refused("aggregates".to_owned()),
                PlanExpr::WindowFunction(_) => refused("windows".to_owned()),
                _ => Ok(TreeNodeRecursion::Continue),
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match walked {
        Ok(_) => Ok(read),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: DataFusionError) -> Error {
    match carried_error(&error) {
        Some(own) => Error::new(own.kind(), own.message().to_owned()),
        None => match from_datafusion(error) {
            error if error.kind() == ErrorKind::Internal => error,
            error => Error::invalid(error.message().to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::Limits;

    use super::*;

    fn taken(query: &str) -> Result<Parts> {
        parts(&query_of(query, &Limits::default()).unwrap())
    }

    #[test]
    fn a_query_over_one_table_is_taken_apart() {
        let parts =
            taken("SELECT a AS b, * FROM ns.t AS x WHERE a > 1 ORDER BY a DESC LIMIT 3").unwrap();
        assert_eq!(parts.projection.len(), 2);
        assert_eq!(parts.filter.unwrap().to_string(), "a > 1");
        assert_eq!((parts.order_by.as_deref(), parts.limit), (Some("a DESC"), Some(3)));
        assert_eq!(parts.source.to_string(), "ns.t AS x");
    }

    #[test]
    fn what_is_no_query_over_the_rows_of_one_table_is_refused() {
        for (query, fragment) in [
            ("WITH a AS (SELECT 1) SELECT * FROM a", "WITH"),
            ("SELECT a FROM t UNION SELECT a FROM t", "UNION"),
            ("SELECT a FROM t GROUP BY a", "GROUP BY"),
            ("SELECT a FROM t HAVING a > 1", "GROUP BY"),
            ("SELECT DISTINCT a FROM t", "DISTINCT"),
            ("SELECT a FROM t QUALIFY a > 1", "windows"),
            ("SELECT a FROM t, u", "joins"),
            ("SELECT a FROM t JOIN u ON true", "joins"),
            ("SELECT 1", "reads a table"),
            ("SELECT a FROM t ORDER BY a", "ORDER BY"),
            ("SELECT a FROM t LIMIT 1 OFFSET 2", "OFFSET"),
            ("SELECT a FROM t LIMIT 1 + 1", "whole number"),
            ("SELECT a FROM t LATERAL VIEW explode(b) c", "other clauses"),
            ("VALUES (1)", "UNION"),
        ] {
            let Err(error) = taken(query) else { panic!("{query}") };
            assert!(error.message().contains(fragment), "{query}: {error}");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{query}");
        }
    }

    #[test]
    fn names_are_quoted_where_they_have_to_be() {
        for (name, shown) in
            [("id", "id"), ("from", "`from`"), ("Path", "`Path`"), ("a`b", "`a``b`")]
        {
            assert_eq!(quoted(name), shown);
        }
    }
}
