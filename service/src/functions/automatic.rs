//! Columns that refresh themselves: after a write the server begins the job that a user would have begun.
//!
//! ```text
//!   a column gets `lakebed:auto_refresh_seconds` ─► its table is noted under `_lakebed/refreshing/`
//!   every look, where the jobs run ─► a noted table has a new version ─► inputs changed? ─► a job
//! ```
//!
//! What always holds: a table is noted before a column of it says so, and for an hour at least, so that no look
//! comes between; rows that failed are not tried again until their inputs change, so all comes to rest; of a
//! column one job runs at a time, and what is written meanwhile is the next one's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::{Field, Schema};
use bytes::Bytes;
use lakebed_core::{
    DatabaseName, Error, ErrorKind, Freshness, Principal, RequestContext, Result, Role, TableId,
};
use lakebed_jobs::{AUTO_REFRESH_SECONDS, Job, RefreshRule, has_new_inputs, last_refreshed};
use lakebed_storage::{At, FieldMetadata, Snapshot, Table};
use tokio_util::sync::CancellationToken;

use super::binding::is_of_sql;
use crate::Service;

/// Where the uids of the tables are that have such columns, each with the name of its database.
const FOLDER: &str = "refreshing";
/// So old a note is not of a column that is about to be made.
const NOTE_AGE_MS: i64 = 3_600_000;
/// How long jobs that get no further lie apart at most.
const IN_VAIN_MAX: Duration = Duration::from_secs(600);

/// What is remembered of a table between two looks.
#[derive(Default)]
struct Looked {
    /// The version that nothing was left to do for.
    version: u64,
    /// What was begun, by column.
    begun: HashMap<String, Begun>,
}

/// The last job that was begun for a column.
struct Begun {
    job_id: String,
    at: Instant,
    /// The version that the column's values were of before.
    source: Option<u64>,
    /// The version that was looked at.
    version: u64,
    /// Jobs in a row that did not get further.
    in_vain: u32,
}

/// A column that refreshes itself; of those that are filled together, the first.
struct Automatic {
    column: String,
    inputs: Vec<String>,
    /// Between the beginnings of two jobs.
    interval: Duration,
    is_of_sql: bool,
    /// The version that its last job saw; nothing before the first.
    source: Option<u64>,
}

impl Service {
    /// Begins jobs for columns that refresh themselves until `stop` is cancelled.
    pub async fn run_refreshes(self: Arc<Self>, stop: CancellationToken) {
        let interval = Duration::from_millis(self.limits.refresh_interval_ms);
        let mut looked: HashMap<String, Looked> = HashMap::new();
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            // They begin where the jobs run.
            if self.column_jobs.is_running() {
                stop.run_until_cancelled(self.look_at_tables(&mut looked)).await;
            }
        }
    }

    /// Notes a table whose columns refresh themselves.
    ///
    /// # Errors
    /// `NotImplemented` for a branch.
    pub(crate) async fn note_refreshing(
        &self,
        table: &Table,
        database: &DatabaseName,
        branch: Option<&str>,
    ) -> Result<()> {
        if branch.is_some() {
            let message = "columns of a branch that refresh themselves are not built";
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
        let path = format!("{FOLDER}/{}", table.uid());
        self.lake.system().put(&path, Bytes::from(database.to_string())).await
    }

    /// Notes a table if a change of what its columns say makes one refresh itself.
    pub(crate) async fn note_if_automatic(
        &self,
        table: &Table,
        database: &DatabaseName,
        branch: Option<&str>,
        changes: &[FieldMetadata],
    ) -> Result<()> {
        let says = |change: &FieldMetadata| match change.entries.get(AUTO_REFRESH_SECONDS) {
            Some(Some(value)) => seconds(value).map(|_| true),
            Some(None) | None => Ok(false),
        };
        for change in changes {
            if says(change)? {
                return self.note_refreshing(table, database, branch).await;
            }
        }
        Ok(())
    }

    async fn look_at_tables(&self, looked: &mut HashMap<String, Looked>) {
        let noted = match self.lake.system().list(FOLDER).await {
            Ok(noted) => noted,
            Err(error) => {
                tracing::info!(error = %error.report(), "columns are not refreshed");
                return;
            }
        };
        let old_ms = self.clock.now_ms().saturating_sub(NOTE_AGE_MS);
        let notes: BTreeMap<&str, bool> = noted
            .iter()
            .filter_map(|note| Some((note.path.rsplit('/').next()?, note.modified_ms < old_ms)))
            .collect();
        looked.retain(|uid, _| notes.contains_key(uid.as_str()));
        for (uid, is_old) in notes {
            let seen = looked.entry(uid.to_owned()).or_default();
            if let Err(error) = self.look_at_table(uid, is_old, seen).await {
                tracing::info!(uid, error = %error.report(), "a table's columns are not refreshed");
            }
        }
    }

    async fn look_at_table(&self, uid: &str, is_old: bool, looked: &mut Looked) -> Result<()> {
        let path = format!("{FOLDER}/{uid}");
        let Some(database) = self.lake.system().get(&path).await? else { return Ok(()) };
        let database = DatabaseName::parse(&String::from_utf8_lossy(&database))?;
        let table = match self.lake.table_by_uid(&database, uid).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.lake.system().delete(&path).await;
            }
            table => table?,
        };
        let freshness =
            Freshness { version_min: None, looked_up_ms_min: Some(self.clock.now_ms()) };
        table.catch_up(None, &freshness).await?;
        let snapshot = table.snapshot(None, &At::Latest).await?;
        if snapshot.version() == looked.version {
            return Ok(());
        }
        let columns = automatic(&snapshot.schema());
        if columns.is_empty() && is_old {
            return self.lake.system().delete(&path).await;
        }
        // A dropped table may still be held.
        let Some(id) = self.lake.name_of(&database, uid).await? else { return Ok(()) };
        let mut is_at_rest = true;
        for column in &columns {
            is_at_rest &= self.refresh_if_changed(&id, &table, &snapshot, column, looked).await?;
        }
        if is_at_rest {
            looked.version = snapshot.version();
        }
        Ok(())
    }

    /// Begins a job for a column if one is due; whether there was nothing to do.
    async fn refresh_if_changed(
        &self,
        id: &TableId,
        table: &Arc<Table>,
        snapshot: &Snapshot,
        column: &Automatic,
        looked: &mut Looked,
    ) -> Result<bool> {
        let name = &column.column;
        let ctx = RequestContext {
            principal: Principal { key_id: "automatic".to_owned(), role: Role::Write },
            request_id: format!("refresh-{}", uuid::Uuid::now_v7()),
            database: id.database.clone(),
            freshness: Freshness::default(),
        };
        let before = looked.begun.get(name);
        if let Some(before) = before {
            let wait = self.wait_after(column.interval, before.in_vain);
            let is_over = |job: &Job| job.state.is_ended();
            let is_under_way =
                self.jobs.get(&ctx, &before.job_id).is_ok_and(|(job, _)| !is_over(&job));
            if before.at.elapsed() < wait || is_under_way {
                return Ok(false);
            }
        }
        if self.column_jobs.is_filled(table.uid(), name) {
            return Ok(false);
        }
        let source = match column.is_of_sql {
            true => before.map(|before| before.version),
            false => column.source,
        };
        if let Some(source) = source
            && !has_new_inputs(table, snapshot, &column.inputs, source).await?
        {
            return Ok(true);
        }
        let in_vain = match before {
            Some(before) if !column.is_of_sql && before.source == column.source => {
                before.in_vain.saturating_add(1)
            }
            _ => 0,
        };
        let rule = match column.is_of_sql {
            true => RefreshRule::default(),
            false => RefreshRule { is_automatic: true, ..RefreshRule::default() },
        };
        match self.begin_refresh(&ctx, id, None, name, rule).await {
            Ok(job_id) => {
                tracing::info!(table = %id, column = name, job_id, "a column refreshes itself");
                let (at, version) = (Instant::now(), snapshot.version());
                let begun = Begun { job_id, at, source: column.source, version, in_vain };
                looked.begun.insert(name.clone(), begun);
                Ok(false)
            }
            // Somebody has to do something first: the next version is worth the next try.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidArgument | ErrorKind::NotFound | ErrorKind::NotImplemented
                ) =>
            {
                let error = error.report();
                tracing::warn!(table = %id, column = name, %error, "a column cannot refresh itself");
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// How long after the beginning of a job the next one may begin.
    fn wait_after(&self, interval: Duration, in_vain: u32) -> Duration {
        let look = Duration::from_millis(self.limits.refresh_interval_ms);
        match in_vain {
            0 => interval,
            n => interval.max(look.saturating_mul(1 << n.min(16)).min(IN_VAIN_MAX)),
        }
    }
}

/// What `lakebed:auto_refresh_seconds` says.
///
/// # Errors
/// `InvalidArgument` for what is no number of seconds.
pub(super) fn seconds(value: &str) -> Result<u64> {
    let parsed = value.parse::<u64>().ok().filter(|seconds| *seconds <= 30 * 86_400);
    parsed.ok_or_else(|| {
        Error::invalid(format!("`{AUTO_REFRESH_SECONDS}` is a number of seconds, 2592000 at most"))
    })
}

/// The columns that refresh themselves.
fn automatic(schema: &Schema) -> Vec<Automatic> {
    // Those that are filled together by what fills them.
    let mut found: BTreeMap<String, Automatic> = BTreeMap::new();
    for field in schema.fields() {
        let says = |key: &str| field.metadata().get(key).map(String::as_str);
        let Some(Ok(every)) = says(AUTO_REFRESH_SECONDS).map(seconds) else { continue };
        let Some(inputs) = inputs(field) else { continue };
        let together = says("computed_column.function.binding_id").unwrap_or(field.name());
        found.entry(together.to_owned()).or_insert_with(|| Automatic {
            column: field.name().clone(),
            inputs,
            interval: Duration::from_secs(every),
            is_of_sql: is_of_sql(field),
            source: last_refreshed(field),
        });
    }
    found.into_values().collect()
}

/// The columns that a computed column reads; nothing for one that is not computed.
fn inputs(field: &Field) -> Option<Vec<String>> {
    serde_json::from_str(field.metadata().get("computed_column.inputs")?).ok()
}
