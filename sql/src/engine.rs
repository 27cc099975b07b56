//! From a parsed statement to a plan over pinned versions.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::execution::FunctionRegistry as _;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::sql::TableReference;
use datafusion::sql::parser::{ExplainStatement, Statement as DfStatement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as Ast;
use lakebed_core::{DatabaseName, Error, Limits, Result, Subject, TableId};
use lakebed_index::resident::Residents;
use lakebed_storage::{At, Extras, Lake, RowMask, Snapshot};

use crate::calls::{CallNames, Callees};
use crate::catalog::CatalogBuilder;
use crate::change::TARGET;
use crate::changes::{changes_table, take_changes};
use crate::error::from_datafusion;
use crate::hidden::{hide, take_extras};
use crate::history::{history_table, take_histories};
use crate::late_blobs::{LateBlobs, take_late};
use crate::materialized::{take_lists, views_table};
use crate::memory::AllMemory;
use crate::names::Scope;
use crate::parse::Statement;
use crate::plan::{PinnedTable, PlannedQuery};
use crate::row_sets::take_row_sets;
use crate::search::{search_table, take_searches};
use crate::session::Sessions;
use crate::spill::Spill;
use crate::time_travel;
use crate::views::{Reads, counted};

/// The schema that tells what there is; no namespace of a lake.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// What the engine is made of.
pub struct SqlOptions {
    /// The open lake.
    pub lake: Arc<Lake>,
    /// Its limits.
    pub limits: Limits,
    /// Where statements spill; emptied of what earlier processes left.
    pub spill_folder: PathBuf,
    /// What runs calls of models and functions.
    pub callees: Arc<dyn Callees>,
    /// Columns that are searched in memory.
    pub residents: Arc<Residents>,
}

/// SQL over one lake.
pub struct Sql {
    lake: Arc<Lake>,
    limits: Limits,
    sessions: Sessions,
    callees: Arc<dyn Callees>,
    residents: Arc<Residents>,
}

/// A table that a statement names, at one version.
struct Opened {
    reference: TableReference,
    snapshot: Snapshot,
    /// The only rows that it has here; all without.
    rows: Option<Arc<RowMask>>,
}

/// A plan, and the session that it was made in.
pub(crate) struct Planned {
    pub(crate) state: SessionState,
    pub(crate) plan: LogicalPlan,
    /// Blobs that are fetched for the rows of the answer.
    pub(crate) late: Option<LateBlobs>,
    /// How many tables the text names, those of its views included.
    pub(crate) weight: usize,
}

impl Sql {
    /// Opens the engine.
    ///
    /// # Errors
    /// `Unavailable` when the folder for spilled rows cannot be made.
    pub fn open(options: SqlOptions) -> Result<Sql> {
        let SqlOptions { lake, limits, spill_folder, callees, residents } = options;
        let spill = Spill::open(&spill_folder, limits.sql_spill_bytes_max)?;
        let all_memory = AllMemory::new(limits.sql_memory_bytes_max);
        let partitions = std::thread::available_parallelism().map_or(1, usize::from);
        let sessions = Sessions { all_memory, spill, partitions, callees: Arc::clone(&callees) };
        Ok(Sql { lake, limits, sessions, callees, residents })
    }

    /// What runs the calls of statements.
    pub fn callees(&self) -> &Arc<dyn Callees> {
        &self.callees
    }

    /// Plans a query. With `pins` it reads the versions of an earlier plan of the same statement.
    ///
    /// # Errors
    /// `NotFound` naming table, version, tag or column and what comes near; `InvalidArgument` for what
    /// does not fit together.
    pub async fn plan_query(
        &self,
        scope: &Scope,
        statement: &Statement,
        pins: Option<&[PinnedTable]>,
    ) -> Result<PlannedQuery> {
        self.plan_tree(scope, statement.tree.clone(), pins, None).await
    }

    pub(crate) fn lake(&self) -> &Arc<Lake> {
        &self.lake
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) async fn plan_tree(
        &self,
        scope: &Scope,
        tree: DfStatement,
        pins: Option<&[PinnedTable]>,
        target: Option<Arc<dyn TableProvider>>,
    ) -> Result<PlannedQuery> {
        let mut reads = Reads::new(pins);
        let Planned { state, plan, late, .. } =
            self.plan_over(scope, tree, &mut reads, target).await?;
        let (snapshots, pins) = reads.into_parts();
        let callees = Arc::clone(&self.callees);
        let limits = self.limits.clone();
        Ok(PlannedQuery { state, plan, late, snapshots, pins, limits, callees })
    }

    /// Plans a statement, or a view in one, over what the statement reads.
    pub(crate) async fn plan_over(
        &self,
        scope: &Scope,
        mut tree: DfStatement,
        reads: &mut Reads<'_>,
        target: Option<Arc<dyn TableProvider>>,
    ) -> Result<Planned> {
        let mut extras = Extras {
            blob_bytes_max: self.limits.sql_blob_bytes_max,
            blob_bytes_limit: "sql_blob_bytes_max",
            ..Extras::default()
        };
        let (mut searches, sets, feeds, histories, lists, functions) = match syntax(&mut tree) {
            // Searches and the like first: what stands for them is no function any more.
            Some(statement) => (
                take_searches(statement)?,
                take_row_sets(statement)?,
                take_changes(statement)?,
                take_histories(statement)?,
                take_lists(statement)?,
                take_extras(statement, &mut extras)?,
            ),
            None => Default::default(),
        };
        let called = match syntax(&mut tree) {
            Some(statement) => self.called(statement, scope, reads).await?,
            None => Vec::new(),
        };
        let counts = syntax(&mut tree).map(counted).unwrap_or_default();
        let mut weight: usize = counts.values().sum();
        let (references, _) = resolve_table_references(&tree, false).map_err(from_datafusion)?;
        let mut catalog = CatalogBuilder::with(scope.database(), scope.schema());
        let mut opened: Vec<Opened> = Vec::new();
        let mut listed: Vec<String> = Vec::new();
        let mut has_views = false;
        for reference in references {
            if reference.schema().is_none() && functions.iter().any(|f| f == reference.table()) {
                continue;
            }
            let (database, schema, table) = scope.resolve(&reference);
            if schema == INFORMATION_SCHEMA {
                if !listed.iter().any(|known| known == database) {
                    listed.push(database.to_owned());
                }
                continue;
            }
            if table.ends_with(TARGET)
                && let Some(target) = &target
            {
                catalog.opened((database, schema, table), Arc::clone(target));
                continue;
            }
            if searches.iter().any(|search| search.name == table)
                || feeds.iter().any(|feed| feed.name == table)
                || histories.iter().any(|history| history.name == table)
                || lists.iter().any(|list| list.name == table)
            {
                continue;
            }
            if let Some(set) = sets.iter().find(|set| set.name == table) {
                let id = scope.searched(&set.table)?;
                let snapshot = self.read(&id, None, &set.at, reads).await?;
                let rows = Some(self.row_set(&id, &snapshot, &set.wanted, reads).await?.1);
                opened.push(Opened { reference, snapshot, rows });
                continue;
            }
            let (name, at) = time_travel::split(table)?;
            let id = scope.table(database, schema, name)?;
            if let Some(view) = self.open_view(&id, reads).await? {
                if at != At::Latest {
                    return Err(Error::invalid(format!(
                        "view `{}` has no versions; the tables that it reads do",
                        id.text()
                    )));
                }
                let times = counts.get(&parts_key(&reference)).copied().unwrap_or(1);
                weight = weight.saturating_add(view.weight.saturating_mul(times));
                catalog.opened((database, schema, table), view.table);
                has_views = true;
                continue;
            }
            let snapshot = self.read(&id, None, &at, reads).await?;
            opened.push(Opened { reference, snapshot, rows: None });
        }
        if weight > self.limits.sql_tables_max && has_views {
            return Err(Error::invalid(format!(
                "the statement and its views name more than sql_tables_max = {} tables",
                self.limits.sql_tables_max
            )));
        }
        for search in &mut searches {
            let id = scope.searched(&search.table)?;
            let branch = search.request.branch.as_deref();
            let snapshot = self.read(&id, branch, &search.at()?, reads).await?;
            if let Some(wanted) = &search.request.row_set {
                let (fixed, _) = self.row_set(&id, &snapshot, wanted, reads).await?;
                search.request.row_set = Some(fixed);
            }
            let table = search_table(
                &snapshot,
                &search.request,
                &self.limits,
                (&self.callees, &self.residents),
                &id.database,
            )
            .await?;
            catalog.opened((scope.database(), scope.schema(), &search.name), table);
        }
        for feed in &feeds {
            let id = scope.searched(&feed.table)?;
            let mut ends: Vec<Snapshot> = Vec::with_capacity(2);
            for at in feed.from.iter().chain([&feed.to]) {
                // A tag knows its branch; the end is on the one of the begin.
                let branch = ends.first().and_then(|begin| begin.branch().map(str::to_owned));
                ends.push(self.read(&id, branch.as_deref(), at, reads).await?);
            }
            if let Some(end) = ends.pop() {
                let table = changes_table(ends.pop(), end).await?;
                catalog.opened((scope.database(), scope.schema(), &feed.name), table);
            }
        }
        for history in &histories {
            let id = scope.searched(&history.table)?;
            let of = self.lake.table(&id).await.map_err(|error| error.about(Subject::Table))?;
            let table = history_table(&of, history.listed).await?;
            catalog.opened((scope.database(), scope.schema(), &history.name), table);
        }
        for list in &lists {
            let table = views_table(&self.lake, scope, list).await?;
            catalog.opened((scope.database(), scope.schema(), &list.name), table);
        }
        // The only table has to be the one that the query reads from.
        let is_alone = searches.is_empty()
            && feeds.is_empty()
            && histories.is_empty()
            && lists.is_empty()
            && listed.is_empty()
            && !has_views;
        let late = match (syntax(&mut tree), opened.as_slice()) {
            (Some(statement), [only]) if is_alone && reads.is_outermost() => {
                take_late(statement, &only.snapshot, &mut extras)
            }
            _ => None,
        };
        // What EXPLAIN answers has no blobs; it shows the plan without them.
        let late = late.filter(|_| !matches!(tree, DfStatement::Explain(_)));
        let mut hidden: HashMap<String, Vec<String>> = HashMap::new();
        for Opened { reference, snapshot, rows } in &opened {
            let (table, hides) = snapshot.table_provider(extras.clone(), rows.clone()).await?;
            catalog.opened(scope.resolve(reference), table);
            hidden.insert(parts_key(reference), hides);
        }
        if let Some(statement) = syntax(&mut tree) {
            hide(statement, &hidden)?;
        }
        for database in listed {
            let database = DatabaseName::parse(&database)?;
            catalog.database(database.as_str());
            for (id, _) in self.lake.list_tables(&database, None).await? {
                catalog.listed(id, &self.lake);
            }
            for (id, table) in self.listed_views(&database, reads).await? {
                catalog.listed_view(&id, table);
            }
        }
        reads.has_blobs |= !extras.blob_bytes.is_empty();
        let mut state =
            self.sessions.session(scope, catalog.build(), &self.limits, reads.has_blobs)?;
        for function in called {
            state.register_udf(function).map_err(from_datafusion)?;
        }
        let plan = state.statement_to_plan(tree).await.map_err(from_datafusion)?;
        Ok(Planned { state, plan, late, weight })
    }

    /// The functions that a statement calls and the engine does not have.
    async fn called(
        &self,
        statement: &mut Ast,
        scope: &Scope,
        reads: &mut Reads<'_>,
    ) -> Result<Vec<Arc<ScalarUDF>>> {
        let pins = reads.pins;
        let pinned = |id: &TableId| {
            let named = function_pin(id);
            pins.map(|pins| pins.iter().find(|pin| pin.named == named))
        };
        let version_of = |id: &TableId| match pinned(id) {
            None => Some(None),
            Some(pin) => pin.map(|pin| Some(pin.version)),
        };
        let names = CallNames::of(statement);
        let functions =
            names.resolve(statement, scope, &self.callees, &mut reads.functions, version_of);
        let functions = functions.await?;
        for (id, function) in &reads.functions {
            if let Some(Some(pin)) = pinned(id)
                && pin.uid != function.uid
            {
                return Err(Error::not_found(format!(
                    "function `{}` was dropped and registered anew; send the statement again",
                    id.text()
                )));
            }
        }
        Ok(functions)
    }

    /// The version of a table that the statement reads.
    async fn read(
        &self,
        id: &TableId,
        branch: Option<&str>,
        at: &At,
        reads: &mut Reads<'_>,
    ) -> Result<Snapshot> {
        let named = match branch {
            None => format!("{id} {at:?}"),
            Some(branch) => format!("{id} {at:?} {branch}"),
        };
        if let Some((snapshot, _)) = reads.by_name.get(&named) {
            return Ok(snapshot.clone());
        }
        let snapshot = self.open_table(id, branch, at, &named, reads.pins).await?;
        let pin = pin_of(&named, id, &snapshot);
        reads.by_name.insert(named, (snapshot.clone(), pin));
        Ok(snapshot)
    }

    async fn open_table(
        &self,
        id: &TableId,
        branch: Option<&str>,
        at: &At,
        named: &str,
        pins: Option<&[PinnedTable]>,
    ) -> Result<Snapshot> {
        let Some(pins) = pins else {
            let table = self.lake.table(id).await.map_err(|error| error.about(Subject::Table))?;
            let opened = table.snapshot(branch, at).await;
            return opened.map_err(|error| error.context(format!("table `{}`", id.text())));
        };
        let pin = pins
            .iter()
            .find(|pin| pin.named == named && pin.database == id.database.as_str())
            .ok_or_else(|| {
                Error::invalid(format!("the ticket does not say a version of `{}`", id.text()))
            })?;
        let table = self.lake.table_by_uid(&id.database, &pin.uid).await?;
        table.snapshot(pin.branch.as_deref(), &At::Version(pin.version)).await
    }
}

fn pin_of(named: &str, id: &TableId, snapshot: &Snapshot) -> PinnedTable {
    PinnedTable {
        named: named.to_owned(),
        database: id.database.to_string(),
        uid: snapshot.table().uid().to_owned(),
        branch: snapshot.branch().map(str::to_owned),
        version: snapshot.version(),
        view: None,
    }
}

/// What a ticket calls the version of a function.
pub(crate) fn function_pin(id: &TableId) -> String {
    format!("{id} (function)")
}

/// The syntax tree inside a statement.
pub(crate) fn syntax(tree: &mut DfStatement) -> Option<&mut Ast> {
    match tree {
        DfStatement::Statement(statement) => Some(statement),
        DfStatement::Explain(ExplainStatement { statement, .. }) => syntax(statement),
        _ => None,
    }
}

/// A name's parts as one key; see [`hide`].
pub(crate) fn parts_key(reference: &TableReference) -> String {
    let parts = [reference.catalog(), reference.schema(), Some(reference.table())];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\u{1f}")
}
