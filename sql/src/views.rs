//! Views: queries that are kept under a name and stand where tables do.
//!
//! ```text
//!   FROM v ──► text of v ──► planned in the scope of v ──► its plan takes the place of a scan
//! ```
//!
//! A view is planned anew by every statement that names it, over the same versions as the rest of the
//! statement: a table has one version in it, whichever way leads there. A ticket has the text of the
//! views that it was planned with, so running it again gives the same rows.
//!
//! What always holds: a view that reads itself is refused; what the views of a statement read counts
//! against `sql_tables_max` as if it stood in the statement.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::config::ConfigOptions;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Analyzer;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    CreateTableOptions, CreateView, Statement as Ast, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use futures::future::BoxFuture;
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, TableId};
use lakebed_storage::{Snapshot, View};
use serde::{Deserialize, Serialize};

use crate::calls::CalledFunction;
use crate::change::{Change, IfExists};
use crate::engine::{Sql, function_pin};
use crate::error::from_datafusion;
use crate::named::offset;
use crate::names::{Scope, parts_of};
use crate::parse::{Statement, StatementKind};
use crate::plan::{PinnedTable, parameters_of, schema_of};
use crate::time_travel::is_keyword;

/// How far views may be inside of one another.
const DEPTH_MAX: usize = 8;

/// The text of a view, and where its names are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PinnedView {
    query: String,
    scope: Scope,
}

/// What a statement reads: one version of each table, and the views on the way there.
pub(crate) struct Reads<'a> {
    /// The versions of an earlier plan of the same statement.
    pub(crate) pins: Option<&'a [PinnedTable]>,
    pub(crate) by_name: HashMap<String, (Snapshot, PinnedTable)>,
    pub(crate) has_blobs: bool,
    /// The functions that it calls.
    pub(crate) functions: BTreeMap<TableId, Arc<CalledFunction>>,
    /// The versions of row sets that it names.
    pub(crate) row_sets: BTreeMap<String, PinnedTable>,
    views: BTreeMap<TableId, OpenedView>,
    /// The views that are being planned, outermost first; and one that is about to be made.
    within: Vec<TableId>,
}

/// A planned view.
#[derive(Clone)]
pub(crate) struct OpenedView {
    pub(crate) table: Arc<dyn TableProvider>,
    /// How many tables its text names, those of the views in it included.
    pub(crate) weight: usize,
    text: PinnedView,
}

impl<'a> Reads<'a> {
    pub(crate) fn new(pins: Option<&'a [PinnedTable]>) -> Reads<'a> {
        Reads {
            pins,
            by_name: HashMap::new(),
            has_blobs: false,
            functions: BTreeMap::new(),
            row_sets: BTreeMap::new(),
            views: BTreeMap::new(),
            within: Vec::new(),
        }
    }

    /// Whether what is planned is the statement itself and no view in it.
    pub(crate) fn is_outermost(&self) -> bool {
        self.within.is_empty()
    }

    /// The snapshots, and what pins them and the texts of the views.
    pub(crate) fn into_parts(self) -> (Vec<Snapshot>, Vec<PinnedTable>) {
        let (snapshots, mut pins): (Vec<_>, Vec<_>) = self.by_name.into_values().unzip();
        pins.extend(self.views.into_iter().map(|(id, view)| PinnedTable {
            named: pin_name(&id),
            database: id.database.to_string(),
            uid: String::new(),
            branch: None,
            version: 0,
            view: Some(view.text),
        }));
        pins.extend(self.functions.into_iter().map(|(id, function)| PinnedTable {
            named: function_pin(&id),
            database: id.database.to_string(),
            uid: function.uid.clone(),
            branch: None,
            version: function.number,
            view: None,
        }));
        pins.extend(self.row_sets.into_values());
        (snapshots, pins)
    }
}

fn pin_name(id: &TableId) -> String {
    format!("{id} (view)")
}

impl Sql {
    /// The view of a name, planned; nothing where the name is not one of a view.
    ///
    /// # Errors
    /// Those of planning its text, naming it.
    pub(crate) async fn open_view(
        &self,
        id: &TableId,
        reads: &mut Reads<'_>,
    ) -> Result<Option<OpenedView>> {
        if let Some(view) = reads.views.get(id) {
            return Ok(Some(view.clone()));
        }
        let text = match reads.pins {
            Some(pins) => {
                let pinned = pins.iter().find(|pin| pin.named == pin_name(id));
                pinned.and_then(|pin| pin.view.clone())
            }
            None => self.lake().find_view(id).await?.map(pinned).transpose()?,
        };
        let Some(text) = text else { return Ok(None) };
        let opened = self.plan_view(id, text, reads).await;
        let view = opened.map_err(|error| error.context(format!("view `{}`", id.text())))?;
        reads.views.insert(id.clone(), view.clone());
        Ok(Some(view))
    }

    fn plan_view<'a>(
        &'a self,
        id: &'a TableId,
        text: PinnedView,
        reads: &'a mut Reads<'_>,
    ) -> BoxFuture<'a, Result<OpenedView>> {
        Box::pin(async move {
            if reads.within.contains(id) {
                return Err(Error::invalid("it reads itself"));
            }
            if reads.within.len() >= DEPTH_MAX {
                return Err(Error::invalid(format!(
                    "views are more than {DEPTH_MAX} deep inside of one another"
                )));
            }
            let tree = query_of(&text.query, self.limits())?;
            reads.within.push(id.clone());
            let planned = self.plan_over(&text.scope, tree, reads, None).await;
            reads.within.pop();
            let planned = planned?;
            let plan = checked(planned.plan)?;
            let table = Arc::new(ViewTable::new(plan, Some(text.query.clone())));
            Ok(OpenedView { table, weight: planned.weight, text })
        })
    }

    /// The views of a database with their columns; without them where a view cannot be planned, because
    /// what it reads is gone.
    pub(crate) async fn listed_views(
        &self,
        database: &DatabaseName,
        reads: &Reads<'_>,
    ) -> Result<Vec<(TableId, Option<Arc<dyn TableProvider>>)>> {
        let mut views = Vec::new();
        for (id, view) in self.lake().list_views(database, None).await? {
            // Nothing is read, so its versions need not be those of the statement.
            let mut aside = Reads { within: reads.within.clone(), ..Reads::new(None) };
            let opened = self.plan_view(&id, pinned(view)?, &mut aside).await;
            views.push((id, opened.ok().map(|view| view.table)));
        }
        Ok(views)
    }

    /// The columns of a view as they are now.
    ///
    /// # Errors
    /// `NotFound` without the view; those of planning it.
    pub async fn view_schema(&self, id: &TableId) -> Result<SchemaRef> {
        match self.open_view(id, &mut Reads::new(None)).await? {
            Some(view) => Ok(view.table.schema()),
            None => self.lake().view(id).await.map(|_| Arc::new(Schema::empty())),
        }
    }

    /// Checks the text of a view that is about to be made; returns its columns.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no query, one with parameters, or one that reads the view itself.
    pub async fn check_view(&self, scope: &Scope, id: &TableId, query: &str) -> Result<SchemaRef> {
        let tree = query_of(query, self.limits())?;
        let mut reads = Reads { within: vec![id.clone()], ..Reads::new(None) };
        let planned = self.plan_over(scope, tree, &mut reads, None).await?;
        if !parameters_of(&planned.plan)?.is_empty() {
            return Err(Error::invalid("a view takes no parameters"));
        }
        Ok(schema_of(&checked(planned.plan)?))
    }

    /// Understands CREATE VIEW; `text` is that of the whole statement.
    pub(crate) async fn create_view(
        &self,
        scope: &Scope,
        create: &CreateView,
        text: &str,
    ) -> Result<Change> {
        let is_plain = !create.or_alter
            && !create.materialized
            && !create.secure
            && !create.temporary
            && !create.copy_grants
            && !create.with_no_schema_binding
            && create.cluster_by.is_empty()
            && create.comment.is_none()
            && create.to.is_none()
            && create.params.is_none()
            && matches!(create.options, CreateTableOptions::None);
        if create.materialized {
            return self.create_materialized_view(scope, create, text);
        }
        if !is_plain {
            return Err(not_built(
                "CREATE VIEW takes columns and AS; TEMPORARY and other clauses are not built",
            ));
        }
        let if_exists = IfExists::of(create.or_replace, create.if_not_exists)?;
        let mut query = text_after_as(text).unwrap_or_else(|| create.query.to_string());
        if !create.columns.is_empty() {
            let mut names = Vec::with_capacity(create.columns.len());
            for column in &create.columns {
                if column.data_type.is_some() || column.options.is_some() {
                    return Err(not_built("a column of a view takes no type and no options"));
                }
                names.push(format!("\"{}\"", column.name.value.replace('"', "\"\"")));
            }
            query = format!("SELECT * FROM ({query}) AS \"columns\" ({})", names.join(", "));
        }
        let view = scope.table_of(&create.name)?;
        Ok(Change::CreateView { view, query, scope: scope.clone(), if_exists })
    }
}

fn pinned(view: View) -> Result<PinnedView> {
    let database = DatabaseName::parse(&view.database)?;
    let scope = Scope::new(&database, Some(&view.namespace))?;
    Ok(PinnedView { query: view.query, scope })
}

/// The syntax tree of a view's text.
pub(crate) fn query_of(text: &str, limits: &lakebed_core::Limits) -> Result<DfStatement> {
    let statement = Statement::parse(text, limits)?;
    let is_query = match &statement.tree {
        DfStatement::Statement(tree) => matches!(tree.as_ref(), Ast::Query(_)),
        _ => false,
    };
    match is_query && statement.kind() == StatementKind::Query {
        true => Ok(statement.tree),
        false => Err(Error::invalid("a view is made of a query")),
    }
}

/// A plan whose types fit, as other plans may build on it.
fn checked(plan: LogicalPlan) -> Result<LogicalPlan> {
    if matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_)) {
        return Err(Error::invalid("a view is made of a query"));
    }
    let mut names = HashSet::new();
    if let Some(twice) = plan.schema().fields().iter().find(|field| !names.insert(field.name())) {
        return Err(Error::invalid(format!(
            "a view cannot have two columns `{}`; name them with AS",
            twice.name()
        )));
    }
    drop(names);
    Analyzer::with_rules(vec![Arc::new(TypeCoercion::new())])
        .execute_and_check(plan, &ConfigOptions::default(), |_, _| {})
        .map_err(from_datafusion)
}

/// How often a statement names each table, by the parts of the name joined as in
/// [`crate::engine::parts_key`].
pub(crate) fn counted(statement: &mut Ast) -> HashMap<String, usize> {
    let mut count = Count { names: HashMap::new() };
    let ControlFlow::Continue(()) = statement.visit(&mut count) else { return HashMap::new() };
    count.names
}

struct Count {
    names: HashMap<String, usize>,
}

impl VisitorMut for Count {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor
            && let Ok(parts) = parts_of(name)
        {
            *self.names.entry(parts.join("\u{1f}")).or_default() += 1;
        }
        ControlFlow::Continue(())
    }
}

/// What follows the AS of a CREATE VIEW, as it was written.
pub(crate) fn text_after_as(text: &str) -> Option<String> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().ok()?;
    let view = tokens.iter().position(|token| is_keyword(&token.token, Keyword::VIEW))?;
    let mut depth = 0_usize;
    for token in tokens.get(view..)? {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            other if depth == 0 && is_keyword(other, Keyword::AS) => {
                let query = text.get(offset(text, token.span.end)?..)?.trim();
                return Some(query.trim_end_matches(';').trim_end().to_owned());
            }
            _ => {}
        }
    }
    None
}

fn not_built(what: &str) -> Error {
    Error::new(ErrorKind::NotImplemented, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_keeps_its_text_as_it_was_written() {
        for (text, query) in [
            ("CREATE VIEW v AS SELECT 1", "SELECT 1"),
            (
                "create or replace view \"as\" (a, b) as\n  SELECT 1 AS x, 'ä;' ;",
                "SELECT 1 AS x, 'ä;'",
            ),
            ("CREATE VIEW v\nAS\nWITH a AS (SELECT 1)\nTABLE a", "WITH a AS (SELECT 1)\nTABLE a"),
            ("CREATE VIEW v AS SELECT * FROM t VERSION AS OF 3", "SELECT * FROM t VERSION AS OF 3"),
        ] {
            assert_eq!(text_after_as(text).as_deref(), Some(query));
        }
        assert_eq!(text_after_as("SELECT 1 AS a"), None);
    }

    #[test]
    fn a_view_is_made_of_a_query() {
        let limits = lakebed_core::Limits::default();
        assert!(query_of("WITH a AS (SELECT 1) SELECT * FROM a", &limits).is_ok());
        for other in ["DELETE FROM t", "EXPLAIN SELECT 1", "SHOW TABLES", "CREATE TABLE t (a INT)"]
        {
            assert!(query_of(other, &limits).is_err(), "{other}");
        }
    }
}
