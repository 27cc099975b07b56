//! From text to one statement that is safe to plan.
//!
//! The text is tokenised once. Limits are checked on the tokens, before anything recurses over them;
//! versions of tables and the two ways of writing parameters are made uniform there as well.

use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, ExplainStatement, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, FromTable, ObjectName, Query, SetExpr, Statement as Ast, TableFactor, TableObject,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use lakebed_core::{Error, ErrorKind, Limits, Result, TableId};
use lakebed_storage::{check_statement, is_multiplying};

use crate::computed::fold_kept;
use crate::error::from_datafusion;
use crate::history::{called_table, check_call};
use crate::materialized::{refreshed, uniform};
use crate::merge;
use crate::names::Scope;
use crate::time_travel::fold_versions;

/// One parsed statement.
#[derive(Debug, Clone)]
pub struct Statement {
    pub(crate) tree: DfStatement,
    pub(crate) text: String,
    kind: StatementKind,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// It reads.
    Query,
    /// It changes tables.
    Change,
}

impl Statement {
    /// Parses `text`, which holds one statement.
    ///
    /// # Errors
    /// `InvalidArgument` naming the limit that is hit, or the position at which the text is no SQL;
    /// `NotImplemented` naming a statement that is known and not built.
    pub fn parse(text: &str, limits: &Limits) -> Result<Statement> {
        let bytes_max = limits.sql_statement_bytes_max;
        if text.len() > bytes_max {
            return Err(Error::invalid(format!(
                "the statement has {} bytes; the limit sql_statement_bytes_max is {bytes_max}",
                text.len()
            )));
        }
        let tokens = Tokenizer::new(&GenericDialect {}, text)
            .tokenize_with_location()
            .map_err(|error| Error::invalid(format!("the statement is no SQL: {error}")))?;
        check_statement(tokens.iter().map(|token| &token.token), limits)?;
        let tokens = number_parameters(fold_kept(fold_versions(uniform(tokens)?))?)?;
        let mut statements = DFParserBuilder::new(tokens)
            .build()
            .and_then(|mut parser| parser.parse_statements())
            .map_err(from_datafusion)?;
        let mut tree = match (statements.pop_front(), statements.len()) {
            (Some(statement), 0) => statement,
            (Some(_), _) => {
                return Err(Error::invalid("a request holds one statement; send them one by one"));
            }
            (None, _) => return Err(Error::invalid("the statement is empty")),
        };
        check_tree(&mut tree, limits)?;
        let kind = kind_of(&tree)?;
        Ok(Statement { tree, text: text.to_owned(), kind })
    }

    /// What it does.
    pub fn kind(&self) -> StatementKind {
        self.kind
    }

    /// The table that a change is about, the first of several; nothing for a query.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules.
    pub fn changed_table(&self, scope: &Scope) -> Result<Option<TableId>> {
        let DfStatement::Statement(statement) = &self.tree else { return Ok(None) };
        if let Ast::Call(call) = statement.as_ref() {
            if let Some(refreshed) = refreshed(call) {
                return scope.table_of(&refreshed?.0).map(Some);
            }
            return called_table(call).map(|table| scope.searched(&table)).transpose();
        }
        let of_factor = |factor: &TableFactor| match factor {
            TableFactor::Table { name, .. } => Some(name.clone()),
            _ => None,
        };
        let name = match statement.as_ref() {
            Ast::Insert(insert) => match &insert.table {
                TableObject::TableName(name) => Some(name.clone()),
                _ => None,
            },
            Ast::Update(update) => of_factor(&update.table.relation),
            Ast::Delete(delete) => {
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) =
                    &delete.from;
                from.first().and_then(|from| of_factor(&from.relation))
            }
            Ast::Merge(merge) => return merge::target(scope, merge).map(Some),
            Ast::CreateTable(create) => Some(create.name.clone()),
            Ast::CreateView(create) => Some(create.name.clone()),
            Ast::AlterTable(alter) => Some(alter.name.clone()),
            Ast::Drop { names, .. } => names.first().cloned(),
            _ => None,
        };
        name.map(|name| scope.table_of(&name)).transpose()
    }

    /// The text that it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Makes `?` into `$1`, `$2` and so on.
fn number_parameters(mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let (mut marks, mut numbered) = (0_usize, false);
    for token in &mut tokens {
        if let Token::Placeholder(name) = &mut token.token {
            match name.as_str() {
                "?" => {
                    marks += 1;
                    *name = format!("${marks}");
                }
                _ => numbered = true,
            }
        }
    }
    if marks > 0 && numbered {
        return Err(Error::invalid("parameters are written `?` or `$1`, not both"));
    }
    Ok(tokens)
}

fn kind_of(tree: &DfStatement) -> Result<StatementKind> {
    let not_built = |what: &str| Err(Error::new(ErrorKind::NotImplemented, what.to_owned()));
    let statement = match tree {
        DfStatement::Explain(ExplainStatement { statement, .. }) => {
            return match kind_of(statement)? {
                StatementKind::Query => Ok(StatementKind::Query),
                StatementKind::Change => {
                    not_built("EXPLAIN of a change is not built; of queries it is")
                }
            };
        }
        DfStatement::Statement(statement) => statement.as_ref(),
        DfStatement::CopyTo(_) => return not_built("COPY is not built"),
        DfStatement::CreateExternalTable(_) => {
            return not_built("CREATE EXTERNAL TABLE is not built; a table lies in the lake");
        }
        DfStatement::Reset(_) => return not_built("RESET is not built; there are no settings"),
    };
    match statement {
        Ast::Query(_)
        | Ast::Explain { .. }
        | Ast::ExplainTable { .. }
        | Ast::ShowTables { .. }
        | Ast::ShowColumns { .. }
        | Ast::ShowFunctions { .. } => Ok(StatementKind::Query),
        Ast::Insert(_)
        | Ast::Update(_)
        | Ast::Delete(_)
        | Ast::Merge(_)
        | Ast::CreateTable(_)
        | Ast::CreateView(_)
        | Ast::AlterTable(_)
        | Ast::Drop { .. } => Ok(StatementKind::Change),
        Ast::Call(call) if refreshed(call).is_some() => Ok(StatementKind::Change),
        Ast::Call(call) => check_call(call).map(|()| StatementKind::Change),
        Ast::StartTransaction { .. }
        | Ast::Commit { .. }
        | Ast::Rollback { .. }
        | Ast::Savepoint { .. }
        | Ast::ReleaseSavepoint { .. } => {
            not_built("transactions are not built; each statement commits by itself")
        }
        Ast::Set(_) => not_built("SET is not built; there are no settings"),
        other => {
            let text = other.to_string();
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            not_built(&format!("{} is not built", words.join(" ").to_uppercase()))
        }
    }
}

/// Bounds what planning would walk, and refuses functions whose result has no bound.
fn check_tree(tree: &mut DfStatement, limits: &Limits) -> Result<()> {
    let statement = match tree {
        DfStatement::Statement(statement) => statement.as_mut(),
        DfStatement::Explain(explain) => return check_tree(&mut explain.statement, limits),
        _ => return Ok(()),
    };
    let mut check = Check { tables: 0, tables_max: limits.sql_tables_max };
    match statement.visit(&mut check) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Check {
    tables: usize,
    tables_max: usize,
}

impl VisitorMut for Check {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        self.tables += 1;
        if self.tables > self.tables_max {
            return ControlFlow::Break(Error::invalid(format!(
                "the statement names more than sql_tables_max = {} tables",
                self.tables_max
            )));
        }
        if let TableFactor::Table { sample: Some(_), .. } = factor {
            return ControlFlow::Break(Error::new(
                ErrorKind::NotImplemented,
                "TABLESAMPLE is not built",
            ));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let what = match query.body.as_ref() {
            SetExpr::Select(select) if select.into.is_some() => "SELECT INTO is not built",
            _ if !query.locks.is_empty() => "FOR UPDATE and FOR SHARE are not built",
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Break(Error::new(ErrorKind::NotImplemented, what))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        if let Some(name) = simple_name(&call.name)
            && is_multiplying(name)
        {
            return ControlFlow::Break(Error::invalid(format!(
                "function `{name}` is not allowed here: its result has no bound"
            )));
        }
        ControlFlow::Continue(())
    }
}

/// The name of a function or table that has one part.
pub(crate) fn simple_name(name: &ObjectName) -> Option<&str> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(|ident| ident.value.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Statement> {
        Statement::parse(text, &Limits::default())
    }

    fn refusal(text: &str) -> (ErrorKind, String) {
        let error = parse(text).unwrap_err();
        (error.kind(), error.message().to_owned())
    }

    #[test]
    fn a_change_names_its_table() {
        let scope = Scope::new(&lakebed_core::DatabaseName::default_database(), None).unwrap();
        let changed = |text: &str| {
            let statement = Statement::parse(text, &Limits::default()).unwrap();
            statement.changed_table(&scope).unwrap().map(|table| table.to_string())
        };
        for text in [
            "insert into t values (1)",
            "insert into t select * from other",
            "update t set a = 1 where b = 2",
            "delete from t where a = 1",
            "merge into t using s on t.a = s.a when matched then update set b = s.b",
            "create table t (a int)",
            "create table t as select * from other",
            "alter table t add column b int",
            "drop table t",
        ] {
            assert_eq!(changed(text).as_deref(), changed("drop table t").as_deref(), "{text}");
            assert!(changed(text).is_some_and(|table| table.ends_with('t')), "{text}");
        }
        assert_eq!(changed("select * from t"), None);
        assert_eq!(changed("explain select * from t"), None);
        let nested = changed("delete from other.ns.t").unwrap();
        assert!(nested.contains("ns") && nested.contains("other"), "{nested}");
    }

    #[test]
    fn kinds_are_told_apart() {
        for query in [
            "SELECT 1",
            "select 1;",
            "EXPLAIN SELECT 1",
            "SHOW TABLES",
            "WITH a AS (SELECT 1) TABLE a",
        ] {
            assert_eq!(parse(query).unwrap().kind(), StatementKind::Query, "{query}");
        }
        for change in [
            "DELETE FROM t",
            "CREATE TABLE t (a INT)",
            "DROP TABLE t",
            "UPDATE t SET a = 1",
            "CREATE VIEW v AS SELECT 1",
        ] {
            assert_eq!(parse(change).unwrap().kind(), StatementKind::Change, "{change}");
        }
        for unbuilt in ["SELECT a INTO b FROM t", "SELECT a FROM t FOR UPDATE"] {
            assert_eq!(refusal(unbuilt).0, ErrorKind::NotImplemented, "{unbuilt}");
        }
        for unbuilt in ["BEGIN", "COMMIT", "SET a = 1", "CREATE SCHEMA s", "VACUUM t"] {
            assert_eq!(refusal(unbuilt).0, ErrorKind::NotImplemented, "{unbuilt}");
        }
    }

    #[test]
    fn mistakes_say_where() {
        let (kind, message) = refusal("SELECT a\nFORM b");
        assert_eq!(kind, ErrorKind::InvalidArgument);
        assert!(message.contains("Line: 2"), "{message}");
        assert!(refusal("SELECT 1; SELECT 2").1.contains("one statement"));
        assert!(refusal(" ; ").1.contains("empty"));
        assert!(refusal("SELECT 'a").1.contains("Line: 1"));
    }

    #[test]
    fn limits_are_named() {
        let many = format!("SELECT 1 FROM a{}", ", a".repeat(200));
        assert!(refusal(&many).1.contains("sql_tables_max"));
        let unions = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(300));
        assert!(refusal(&unions).1.contains("sql_depth_max"));
        assert!(refusal(&format!("SELECT '{}'", "x".repeat(1 << 20))).1.contains("sql_statement"));
        assert!(refusal("SELECT repeat('a', 1000000000)").1.contains("repeat"));
        parse("SELECT * FROM generate_series(1, 10)").unwrap();
    }

    #[test]
    fn parameters_are_numbered() {
        let tree = parse("SELECT ? + ?").unwrap().tree.to_string();
        assert_eq!(tree, "SELECT $1 + $2");
        assert!(refusal("SELECT ? + $2").1.contains("not both"));
    }
}
