//! A materialized view is brought up to a version of its source.
//!
//! ```text
//!   version that is shown, version that is wanted ──► the same ───────────► nothing
//!                                                 ├─► changes between them ─► rows of these
//!                                                 └─► they cannot be told ──► all rows
//! ```

use std::sync::Arc;

use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, Freshness, RequestContext, Result, Role, Subject, TableId};
use lakebed_sql::PlannedQuery;
use lakebed_storage::{At, MaterializedView, Snapshot, Table};
use serde_json::{Value, json};

use super::definition_of;
use crate::audit::AuditLine;
use crate::read::READ_BYTES;
use crate::{BatchStream, Service};

const ACTION: &str = "refresh_materialized_view";
/// Two versions are read beside each other.
const REFRESH_BYTES: usize = 2 * READ_BYTES;
/// Times that a refresh is begun anew because another one was first.
const TRIES_MAX: u32 = 5;

/// What is asked of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefreshView {
    /// Whether all rows are replaced, also where what changed is known.
    pub full: bool,
    /// The version of the source that is to be shown; the newest when absent.
    pub source_version: Option<u64>,
}

/// What a refresh did.
#[derive(Debug)]
pub(super) struct Refreshed {
    mode: &'static str,
    /// Rows that were written.
    pub(super) written: u64,
    deleted: u64,
    source_version: u64,
    version: u64,
    /// Why all rows were replaced, where nobody asked for it.
    reason: Option<String>,
}

impl Refreshed {
    /// The result of a job, as the SDKs of LanceDB read it.
    pub(super) fn to_json(&self) -> Value {
        let mut result = json!({
            "mode": self.mode,
            "rows_written": self.written,
            "rows_deleted": self.deleted,
            "source_version": self.source_version,
            "version": self.version,
        });
        if let Some(reason) = &self.reason {
            result["reason"] = reason.clone().into();
        }
        result
    }
}

/// How the rows of a version of the source get into a view.
enum Way {
    /// They are there.
    Nothing,
    /// Through what changed since this version of the source.
    Changes(Box<Snapshot>),
    /// All of them; and why, where nobody asked for it.
    All(Option<String>),
}

impl Service {
    /// Begins to refresh a materialized view; returns the id of the job.
    ///
    /// # Errors
    /// `NotFound` without the view; `InvalidArgument` for a table that is none, and where its source was
    /// dropped.
    pub async fn refresh_materialized_view(
        self: &Arc<Self>,
        ctx: &RequestContext,
        id: &TableId,
        rule: RefreshView,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, ACTION, Some(&id.to_string()))?;
        let _guard = self.gate.enter()?;
        let begun = async {
            let table = self.fresh_table(ctx, id, None).await?;
            self.source_of(&definition_of(&table, id).await?).await?;
            let spec = json!({ "full": rule.full, "source_version": rule.source_version });
            let service = Arc::clone(self);
            let work = async move { Ok(service.refresh_view(&table, rule).await?.to_json()) };
            self.jobs.begin(ctx, ACTION, id.text(), spec, work).await
        };
        let outcome = begun.await;
        self.note_refresh(ctx, id, &outcome);
        outcome
    }

    /// Refreshes a materialized view; returns how many rows were written.
    ///
    /// # Errors
    /// As [`Service::refresh_materialized_view`], and those of its query.
    pub(crate) async fn refresh_materialized_view_now(
        &self,
        ctx: &RequestContext,
        id: &TableId,
        rule: RefreshView,
    ) -> Result<u64> {
        self.permit(ctx, Role::Write, ACTION, Some(&id.to_string()))?;
        let refreshed = async {
            let table = self.fresh_table(ctx, id, None).await?;
            definition_of(&table, id).await?;
            Ok(self.refresh_view(&table, rule).await?.written)
        };
        let outcome = refreshed.await;
        self.note_refresh(ctx, id, &outcome);
        outcome
    }

    fn note_refresh<T>(&self, ctx: &RequestContext, id: &TableId, outcome: &Result<T>) {
        let mut line = AuditLine::new(ctx, ACTION).outcome(outcome);
        line.table = Some(id.to_string());
        self.audit.record(line);
    }

    pub(super) async fn refresh_view(
        &self,
        table: &Arc<Table>,
        rule: RefreshView,
    ) -> Result<Refreshed> {
        let mut tries = 1;
        loop {
            let table = self.lake.insist(table).await?;
            match self.refresh_once(&table, rule).await {
                Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES_MAX => {
                    tries += 1
                }
                outcome => return outcome,
            }
        }
    }

    async fn refresh_once(&self, table: &Arc<Table>, rule: RefreshView) -> Result<Refreshed> {
        let shown = table.snapshot(None, &At::Latest).await?;
        let was = shown.materialized_view()?;
        let was = was.ok_or_else(|| Error::invalid("the table is no materialized view"))?;
        let (source_id, source) = self.source_of(&was).await?;
        let of_source = |error: Error| error.context(format!("table `{}`", source_id.text()));
        let now_ms = self.clock.now_ms();
        let newest = Freshness { looked_up_ms_min: Some(now_ms), ..Freshness::default() };
        source.catch_up(None, &newest).await.map_err(of_source)?;
        let wanted = rule.source_version.map_or(At::Latest, At::Version);
        let end = source.snapshot(None, &wanted).await.map_err(of_source)?;
        let now = MaterializedView {
            source: source_id.text(),
            source_uid: source.uid().to_owned(),
            source_version: Some(end.version()),
            refreshed_at_ms: Some(now_ms),
            ..was.clone()
        };
        let reason = match self.way(&was, &source, &end, rule).await? {
            Way::Nothing => {
                return Ok(Refreshed {
                    mode: "no_op",
                    written: 0,
                    deleted: 0,
                    source_version: end.version(),
                    version: shown.version(),
                    reason: None,
                });
            }
            Way::Changes(begin) => {
                match self.refresh_changed(table, (&was, &now), &begin, &end).await? {
                    Ok(refreshed) => return Ok(refreshed),
                    Err(reason) => Some(reason),
                }
            }
            Way::All(reason) => reason,
        };
        let rows = self.sql.view_rows(&was, &end).await?;
        let (schema, batches) = self.open_view_rows(rows).await?;
        let done = table.rebuild_view(&was, &now, schema, batches).await?;
        Ok(Refreshed {
            mode: "rebuild",
            written: done.written,
            deleted: done.deleted,
            source_version: end.version(),
            version: done.version,
            reason,
        })
    }

    /// Refreshes from what changed; where that cannot be told, the reason.
    async fn refresh_changed(
        &self,
        table: &Arc<Table>,
        (was, now): (&MaterializedView, &MaterializedView),
        begin: &Snapshot,
        end: &Snapshot,
    ) -> Result<std::result::Result<Refreshed, String>> {
        let rows = match end.changed_rows(begin, &was.source_columns).await {
            Ok(rows) => rows,
            // Too many versions, no stable row ids, a column that took the name of one of the feed.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                return Ok(Err(error.message().to_owned()));
            }
            Err(error) => return Err(error),
        };
        let ids = rows.ids.clone();
        let rows = self.sql.view_changes(was, end, rows).await?;
        let (schema, batches) = self.open_view_rows(rows).await?;
        let Some(done) = table.change_view(was, now, schema, batches, ids).await? else {
            let rows_max = self.limits.upsert_rows_max;
            return Ok(Err(format!("more than upsert_rows_max = {rows_max} rows changed")));
        };
        let is_same = done.written == 0 && done.deleted == 0;
        Ok(Ok(Refreshed {
            mode: if is_same { "no_op" } else { "incremental" },
            written: done.written,
            deleted: done.deleted,
            source_version: end.version(),
            version: done.version,
            reason: None,
        }))
    }

    async fn way(
        &self,
        was: &MaterializedView,
        source: &Arc<Table>,
        end: &Snapshot,
        rule: RefreshView,
    ) -> Result<Way> {
        let Some(shown) = was.source_version.filter(|_| !rule.full) else {
            return Ok(Way::All(None));
        };
        let because = |reason: &str| Ok(Way::All(Some(reason.to_owned())));
        if was.source_uid != source.uid() {
            return because("the table of the view was replaced by another one of its name");
        }
        if shown == end.version() {
            return Ok(Way::Nothing);
        }
        if was.limit.is_some() {
            return because("a view with a LIMIT is made anew when its table changed");
        }
        if shown > end.version() {
            return because("the version is older than the one that the view shows");
        }
        match source.snapshot(None, &At::Version(shown)).await {
            Ok(begin) => Ok(Way::Changes(Box::new(begin))),
            Err(error) if error.kind() == ErrorKind::NotFound => because(error.message()),
            Err(error) => Err(error),
        }
    }

    /// The table that a view is made of, by its name of today.
    ///
    /// # Errors
    /// `InvalidArgument` when it was dropped.
    async fn source_of(&self, view: &MaterializedView) -> Result<(TableId, Arc<Table>)> {
        let database = lakebed_core::DatabaseName::parse(&view.database)?;
        if let Some(id) = self.lake.name_of(&database, &view.source_uid).await? {
            let table = self.lake.table_by_uid(&database, &view.source_uid).await?;
            return Ok((id, table));
        }
        let id = TableId::parse(&database, &view.source)?;
        match self.lake.find_table(&id).await? {
            Some(table) => Ok((id, table)),
            None => Err(Error::invalid(format!(
                "table `{}`, which the materialized view reads, was dropped; the view keeps the rows that \
                 it has",
                view.source
            ))
            .about(Subject::Table)),
        }
    }

    async fn open_view_rows(
        &self,
        rows: PlannedQuery,
    ) -> Result<(arrow_schema::SchemaRef, BatchStream)> {
        let memory = self.admission.read_bytes(REFRESH_BYTES).await?;
        let (schema, batches) = rows.run().await?;
        let batches = batches.inspect(move |_| {
            let _ = &memory;
        });
        Ok((schema, batches.boxed()))
    }
}
