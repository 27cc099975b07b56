//! From a parsed statement to a plan over pinned versions.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::sql::TableReference;
use datafusion::sql::parser::{ExplainStatement, Statement as DfStatement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as Ast;
use lakebed_core::{DatabaseName, Error, Limits, Result, Subject, TableId};
use lakebed_storage::{At, Extras, Lake, Snapshot};

use crate::catalog::CatalogBuilder;
use crate::change::TARGET;
use crate::changes::{changes_table, take_changes};
use crate::error::from_datafusion;
use crate::hidden::{hide, take_extras};
use crate::late_blobs::take_late;
use crate::memory::AllMemory;
use crate::names::Scope;
use crate::parse::Statement;
use crate::plan::{PinnedTable, PlannedQuery};
use crate::search::{search_table, take_searches};
use crate::session::Sessions;
use crate::spill::Spill;
use crate::time_travel;

const INFORMATION_SCHEMA: &str = "information_schema";

/// What the engine is made of.
pub struct SqlOptions {
    /// The open lake.
    pub lake: Arc<Lake>,
    /// Its limits.
    pub limits: Limits,
    /// Where statements spill; emptied of what earlier processes left.
    pub spill_folder: PathBuf,
}

/// SQL over one lake.
pub struct Sql {
    lake: Arc<Lake>,
    limits: Limits,
    sessions: Sessions,
}

/// A table that a statement names, at one version.
struct Opened {
    reference: TableReference,
    snapshot: Snapshot,
}

impl Sql {
    /// Opens the engine.
    ///
    /// # Errors
    /// `Unavailable` when the folder for spilled rows cannot be made.
    pub fn open(options: SqlOptions) -> Result<Sql> {
        let SqlOptions { lake, limits, spill_folder } = options;
        let spill = Spill::open(&spill_folder, limits.sql_spill_bytes_max)?;
        let all_memory = AllMemory::new(limits.sql_memory_bytes_max);
        let partitions = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Sql { lake, limits, sessions: Sessions { all_memory, spill, partitions } })
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

    pub(crate) async fn plan_tree(
        &self,
        scope: &Scope,
        mut tree: DfStatement,
        pins: Option<&[PinnedTable]>,
        target: Option<Arc<dyn TableProvider>>,
    ) -> Result<PlannedQuery> {
        let mut extras = Extras {
            blob_bytes_max: self.limits.sql_blob_bytes_max,
            blob_bytes_limit: "sql_blob_bytes_max",
            ..Extras::default()
        };
        let (searches, feeds, functions) = match syntax(&mut tree) {
            // Searches and feeds first: what stands for them is no function any more.
            Some(statement) => (
                take_searches(statement)?,
                take_changes(statement)?,
                take_extras(statement, &mut extras)?,
            ),
            None => Default::default(),
        };
        let (references, _) = resolve_table_references(&tree, false).map_err(from_datafusion)?;
        let mut catalog = CatalogBuilder::with(scope.database(), scope.schema());
        let mut opened: Vec<Opened> = Vec::new();
        let mut by_name: HashMap<String, (Snapshot, PinnedTable)> = HashMap::new();
        let mut listed: Vec<String> = Vec::new();
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
            {
                continue;
            }
            let (table, at) = time_travel::split(table)?;
            let id = scope.table(database, schema, table)?;
            let named = format!("{id} {at:?}");
            let snapshot = match by_name.get(&named) {
                Some((snapshot, _)) => snapshot.clone(),
                None => {
                    let snapshot = self.open_table(&id, None, &at, &named, pins).await?;
                    let pin = pin_of(&named, &id, &snapshot);
                    by_name.insert(named, (snapshot.clone(), pin));
                    snapshot
                }
            };
            opened.push(Opened { reference, snapshot });
        }
        for search in &searches {
            let id = scope.searched(&search.table)?;
            let at = search.at()?;
            let branch = search.request.branch.as_deref();
            // The same key as the table's own, so that both read one version.
            let named = match branch {
                None => format!("{id} {at:?}"),
                Some(branch) => format!("{id} {at:?} {branch}"),
            };
            let snapshot = match by_name.get(&named) {
                Some((snapshot, _)) => snapshot.clone(),
                None => {
                    let snapshot = self.open_table(&id, branch, &at, &named, pins).await?;
                    let pin = pin_of(&named, &id, &snapshot);
                    by_name.insert(named, (snapshot.clone(), pin));
                    snapshot
                }
            };
            let table = search_table(&snapshot, &search.request, &self.limits).await?;
            catalog.opened((scope.database(), scope.schema(), &search.name), table);
        }
        for feed in &feeds {
            let id = scope.searched(&feed.table)?;
            let mut ends: Vec<Snapshot> = Vec::with_capacity(2);
            for at in feed.from.iter().chain([&feed.to]) {
                // A tag knows its branch; the end is on the one of the begin.
                let branch = ends.first().and_then(|begin| begin.branch().map(str::to_owned));
                let named = match &branch {
                    None => format!("{id} {at:?}"),
                    Some(branch) => format!("{id} {at:?} {branch}"),
                };
                let snapshot = match by_name.get(&named) {
                    Some((snapshot, _)) => snapshot.clone(),
                    None => {
                        let branch = branch.as_deref();
                        let snapshot = self.open_table(&id, branch, at, &named, pins).await?;
                        let pin = pin_of(&named, &id, &snapshot);
                        by_name.insert(named, (snapshot.clone(), pin));
                        snapshot
                    }
                };
                ends.push(snapshot);
            }
            if let Some(end) = ends.pop() {
                let table = changes_table(ends.pop(), end).await?;
                catalog.opened((scope.database(), scope.schema(), &feed.name), table);
            }
        }
        // The only table has to be the one that the query reads from.
        let is_alone = searches.is_empty() && feeds.is_empty() && listed.is_empty();
        let late = match (syntax(&mut tree), opened.as_slice()) {
            (Some(statement), [only]) if is_alone => {
                take_late(statement, &only.snapshot, &mut extras)
            }
            _ => None,
        };
        // What EXPLAIN answers has no blobs; it shows the plan without them.
        let late = late.filter(|_| !matches!(tree, DfStatement::Explain(_)));
        let mut hidden: HashMap<String, Vec<String>> = HashMap::new();
        for Opened { reference, snapshot } in &opened {
            let (table, hides) = snapshot.table_provider(extras.clone()).await?;
            catalog.opened(scope.resolve(reference), table);
            hidden.insert(parts_key(reference), hides);
        }
        if let Some(statement) = syntax(&mut tree) {
            hide(statement, &hidden)?;
        }
        for database in listed {
            let database = DatabaseName::parse(&database)?;
            for (id, _) in self.lake.list_tables(&database, None).await? {
                catalog.listed(id, &self.lake);
            }
        }
        let has_blobs = !extras.blob_bytes.is_empty();
        let state = self.sessions.session(scope, catalog.build(), &self.limits, has_blobs)?;
        let plan = state.statement_to_plan(tree).await.map_err(from_datafusion)?;
        let (snapshots, pins) = by_name.into_values().unzip();
        Ok(PlannedQuery { state, plan, late, snapshots, pins, limits: self.limits.clone() })
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
    }
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
