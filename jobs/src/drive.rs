//! One job from its first plan to its end.
//!
//! ```text
//!   plan a pass ─► rows to the scheduler ─► groups done ─► errors noted ─► fill ─► parts deleted
//!       ▲                                                                    │ moved
//!       └──────────────── where are these rows now? ◄────────────────────────┘
//! ```
//!
//! What stops half way goes on from the ledger: a group whose fill is not in the ledger is filled again
//! under the same write id, which does nothing if it was committed. What fails for reasons that pass is
//! tried again for as long as it takes; the job says what it waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use futures::{FutureExt as _, TryStreamExt as _};
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, RowSetRef};
use lakebed_storage::{
    At, ChangeKind, ChangesSpec, FieldMetadata, RowMask, RowPlaces, Snapshot, Table,
};
use roaring::RoaringTreemap;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ids::{AttemptId, JobId};
use crate::ledger::{Ledger, Record, Ticket, folder_of};
use crate::parts;
use crate::pass::{Pass, PassFragment, places_of_ids};
use crate::registry::{Job, JobState};
use crate::replay::Replayed;
use crate::runtime::{ColumnJobs, ColumnSpec, EndedRows, Running};
use crate::scheduler::{Event, GroupRows};
use crate::work::{JOB_ID, ModelWork, SOURCE_VERSION, Work, origin};

/// Fragments that are filled in one version.
const FILLED_AT_ONCE: usize = 16;
/// Passes before a job gives up: a table that changes under each of them never holds still.
const PASSES_MAX: u32 = 100;
pub(crate) const WAIT_FIRST: Duration = Duration::from_millis(500);
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// What is known of a job that was submitted just now.
pub(crate) struct Begun {
    /// Its table, and the version whose rows are computed.
    pub(crate) table: Arc<Table>,
    pub(crate) snapshot: Snapshot,
    /// Cancelled once its record is durable.
    pub(crate) is_stored: CancellationToken,
}

/// A pass, and its record on the way to the ledger.
type Planned = (Arc<Pass>, Option<Ticket>);

impl ColumnJobs {
    /// Takes up a job that is in the records, or begun just now, in a task of its own.
    pub(crate) fn take_up(
        self: &Arc<Self>,
        job: Job,
        cancel: CancellationToken,
        term: CancellationToken,
        begun: Option<Begun>,
    ) {
        let jobs = Arc::clone(self);
        tokio::spawn(async move {
            let job_id = job.job_id.clone();
            let is_stored = begun.as_ref().map(|begun| begun.is_stored.clone());
            let outcome =
                std::panic::AssertUnwindSafe(jobs.run(&job, cancel.clone(), &term, begun))
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|_| Some(Err(Error::internal("the job broke off"))));
            if !term.is_cancelled() {
                jobs.leave(&job_id);
            }
            // Without an outcome the server stops, and the job goes on after its next start.
            if let Some(outcome) = outcome {
                if let Some(is_stored) = is_stored {
                    is_stored.cancelled().await;
                }
                jobs.end(&job_id, outcome, cancel.is_cancelled()).await;
            }
        });
    }

    fn leave(&self, job_id: &str) {
        let id = JobId::new(job_id);
        self.running().remove(&id);
        self.step(Event::RemoveJob(id));
        self.wake();
    }

    /// Runs a job; nothing when the server stops first.
    async fn run(
        self: &Arc<Self>,
        job: &Job,
        cancel: CancellationToken,
        term: &CancellationToken,
        mut begun: Option<Begun>,
    ) -> Option<Result<serde_json::Value>> {
        let mut wait = WAIT_FIRST;
        let deadline = self.deadline_of(job);
        let mut is_late = std::pin::pin!(async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        });
        loop {
            let begun = begun.take();
            let work = async {
                let (job, has_waited) = self.in_turn(job).await?;
                // What one that waited computes was chosen after that.
                let begun = begun.filter(|_| !has_waited);
                let (run, mut groups, replayed) = self.open_job(&job, begun.as_ref()).await?;
                let lost = run.is_lost.clone();
                tokio::select! {
                    outcome = self.drive(&run, &mut groups, replayed, begun) => outcome,
                    () = lost.cancelled() => Err(Error::new(
                        ErrorKind::Unavailable,
                        "what ended could not be written down",
                    )),
                }
            };
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = &mut is_late => return Some(Err(Error::new(
                    ErrorKind::DeadlineExceeded,
                    "the job did not end within its `timeout_s`",
                ))),
                () = cancel.cancelled() => return self.called_off(term),
                () = term.cancelled() => return None,
            };
            match outcome {
                // Taken up again from its ledger, as after a restart.
                Err(error) if passes(&error) => {
                    tracing::warn!(job_id = job.job_id, error = %error.report(), "a job waits");
                    self.leave(&job.job_id);
                    if self.pause_for(&cancel, term, &mut wait).await.is_none() {
                        return self.called_off(term);
                    }
                }
                outcome => return Some(outcome),
            }
        }
    }

    /// When a job is called off that may take only so long.
    fn deadline_of(&self, job: &Job) -> Option<tokio::time::Instant> {
        let spec = serde_json::from_value::<ColumnSpec>(job.spec.clone()).ok()?;
        let timeout_ms = i64::try_from(spec.terms.timeout_s?.saturating_mul(1_000)).ok()?;
        let left_ms = job.created_at_ms.saturating_add(timeout_ms) - self.clock.now_ms();
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        Some(tokio::time::Instant::now() + left)
    }

    /// Waits until no job that was asked for before writes the same columns. A job that had to wait computes
    /// what there is then; says whether it had to.
    async fn in_turn(&self, job: &Job) -> Result<(Job, bool)> {
        if self.before(&job.job_id).is_none() {
            // As the record has it: it may have waited before the server was started again.
            return Ok((self.records.find(&job.job_id)?.0, false));
        }
        self.records.until(|| self.before(&job.job_id).is_none()).await;
        let spec: ColumnSpec = spec_of(job)?;
        let database = DatabaseName::parse(&job.database)?;
        let table = self.lake.table_by_uid(&database, &spec.table_uid).await?;
        let spec = serde_json::to_value(self.renewed(&table, spec).await?)
            .map_err(|error| Error::internal("write a job's spec").with_source(error))?;
        Ok((self.records.change(&job.job_id, |job| job.spec = spec).await?, true))
    }

    /// What a job that was cancelled ends with; nothing when the server stops, which cancels all.
    fn called_off(&self, term: &CancellationToken) -> Option<Result<serde_json::Value>> {
        let is_stopping = self.records.is_stopping() || term.is_cancelled();
        let called_off = Error::new(ErrorKind::Cancelled, "the job was called off");
        (!is_stopping).then_some(Err(called_off))
    }

    async fn pause_for(
        &self,
        cancel: &CancellationToken,
        term: &CancellationToken,
        wait: &mut Duration,
    ) -> Option<()> {
        let slept = tokio::time::sleep(*wait);
        *wait = (*wait * 2).min(WAIT_MAX);
        tokio::select! {
            () = slept => Some(()),
            () = cancel.cancelled() => None,
            () = term.cancelled() => None,
        }
    }

    async fn open_job(
        self: &Arc<Self>,
        job: &Job,
        begun: Option<&Begun>,
    ) -> Result<(Arc<Running>, mpsc::UnboundedReceiver<u32>, Replayed)> {
        let spec = spec_of(job)?;
        let job_id = JobId::new(&job.job_id);
        let system = self.system.clone();
        let (ledger, records) = match begun {
            Some(begun) => (Ledger::new(system, &job.job_id, begun.is_stored.clone()), Vec::new()),
            None => Ledger::open(system, &job.job_id).await?,
        };
        let replayed = Replayed::of(&job_id, records);
        let (run, groups) = Running::new(
            job_id,
            DatabaseName::parse(&job.database)?,
            job.table.clone(),
            spec,
            ledger,
        );
        let model = replayed.model.clone().unwrap_or_else(|| run.spec.work.need());
        run.state().model = Some(model.clone());
        self.running().insert(run.id.clone(), Arc::clone(&run));
        let terms = run.spec.scheduled(model);
        self.step(Event::AddJob { job: run.id.clone(), terms });
        // As it is now: it may have been paused since.
        if self.records.state(&job.job_id) == Some(JobState::Paused) {
            self.step(Event::Pause(run.id.clone()));
        }
        Ok((run, groups, replayed))
    }

    async fn drive(
        self: &Arc<Self>,
        run: &Arc<Running>,
        groups: &mut mpsc::UnboundedReceiver<u32>,
        mut replayed: Replayed,
        begun: Option<Begun>,
    ) -> Result<serde_json::Value> {
        let (table, snapshot) = match begun {
            Some(begun) => (begun.table, Some(begun.snapshot)),
            None => (self.lake.table_by_uid(&run.database, &run.spec.table_uid).await?, None),
        };
        {
            let mut state = run.state();
            (state.rows_done, state.errors) = (replayed.rows_filled, replayed.errors);
            state.version = replayed.version;
            state.has_given_up |= replayed.has_given_up;
        }
        let (mut pass, mut ticket) = match replayed.planned.take() {
            Some(record) => self.open_pass(&table, &record).await?,
            None => self.plan_first(run, &table, snapshot).await?,
        };
        loop {
            let planned = (Arc::clone(&pass), ticket);
            let moved = self.fill_pass(run, &table, planned, groups, &mut replayed).await?;
            let Some((snapshot, places)) = self.left_over(run, &table, &pass, &moved).await? else {
                break;
            };
            let number = pass.number + 1;
            if number > PASSES_MAX {
                // No conflict: those are tried again.
                return Err(Error::new(
                    ErrorKind::Cancelled,
                    format!("the table changed under each of {PASSES_MAX} passes"),
                ));
            }
            let inputs = run.spec.work.input_names();
            let record = Pass::plan(number, &snapshot, &inputs, places, Some(&pass))?;
            (pass, ticket) = begin_pass(run, record, snapshot)?;
        }
        self.finish(run, &table).await
    }

    /// Where the rows of a pass are now that were not filled because they were rewritten meanwhile:
    /// those of whole fragments that moved, and those that were deleted at their place. Nothing when
    /// there are none, or they are gone for good.
    async fn left_over(
        &self,
        run: &Running,
        table: &Arc<Table>,
        pass: &Pass,
        moved: &[u32],
    ) -> Result<Option<(Snapshot, RowPlaces)>> {
        let snapshot = table.snapshot(None, &At::Latest).await?;
        let (before, now) = (pass.snapshot.deletions(), snapshot.deletions());
        let mut ids = RoaringTreemap::new();
        for fragment in &pass.fragments {
            let id = fragment.planned.fragment;
            let is_moved = moved.contains(&fragment.group);
            match now.get(&id) {
                Some(deleted) if !is_moved && before.get(&id) == Some(deleted) => continue,
                // It was filled before it was rewritten, and the rows took their values along.
                None if !is_moved && run.spec.replaces() => continue,
                _ => {}
            }
            let mut lost: RoaringTreemap =
                pass.row_ids(fragment).await?.iter().map(|(_, id)| *id).collect();
            if !is_moved && now.contains_key(&id) {
                for (_, row_id) in snapshot.row_ids_at(id, &fragment.planned.places).await? {
                    lost.remove(row_id);
                }
            }
            ids |= lost;
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let filter = (!run.spec.replaces()).then(|| without_values(&run.spec.work));
        let places = places_of_ids(&snapshot, &ids, filter.as_deref()).await?;
        Ok((!places.is_empty()).then_some((snapshot, places)))
    }

    async fn open_pass(&self, table: &Arc<Table>, record: &Record) -> Result<Planned> {
        let Record::Planned { version, .. } = record else {
            return Err(Error::internal("a pass of another record"));
        };
        let snapshot = table.snapshot(None, &At::Version(*version)).await?;
        Ok((Arc::new(Pass::open(record, snapshot)?), None))
    }

    async fn plan_first(
        &self,
        run: &Running,
        table: &Arc<Table>,
        snapshot: Option<Snapshot>,
    ) -> Result<Planned> {
        let spec = &run.spec;
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => table.snapshot(None, &At::Version(spec.source_version)).await?,
        };
        let output = without_values(&spec.work);
        let filter = match (&spec.filter, spec.recompute) {
            (None, true) => None,
            (Some(filter), true) => Some(filter.clone()),
            (None, false) => Some(output),
            (Some(filter), false) => Some(format!("({filter}) AND {output}")),
        };
        let mut places = match spec.is_automatic {
            // Rows without a value that are not new failed before.
            true => RowPlaces::new(),
            false => match rows_of_set(&snapshot, spec).await? {
                None => snapshot.row_places(filter.as_deref(), None).await?,
                Some(rows) => places_of_ids(&snapshot, rows.ids(), filter.as_deref()).await?,
            },
        };
        if let Some(since) = spec.stale_since.filter(|_| !spec.recompute) {
            let stale = self.stale_rows(table, &snapshot, spec, since).await?;
            for (fragment, stale) in stale {
                *places.entry(fragment).or_default() |= stale;
            }
        }
        let inputs = spec.work.input_names();
        let record = Pass::plan(1, &snapshot, &inputs, places, None)?;
        begin_pass(run, record, snapshot)
    }

    /// Where the rows lie whose inputs changed since a version. Where that is gone or too far away to be
    /// compared with, all that were changed at all.
    async fn stale_rows(
        &self,
        table: &Arc<Table>,
        snapshot: &Snapshot,
        spec: &ColumnSpec,
        since: u64,
    ) -> Result<RowPlaces> {
        let changes = ChangesSpec {
            columns: Some(spec.work.input_names()),
            kinds: Some(match spec.is_automatic {
                true => vec![ChangeKind::Insert, ChangeKind::Update],
                false => vec![ChangeKind::Update],
            }),
            ..ChangesSpec::default()
        };
        let found = async {
            let begin = table.snapshot(None, &At::Version(since)).await?;
            snapshot.changes(Some(&begin), &changes).await
        };
        let mut batches = match found.await {
            Ok((_, batches)) => batches,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument) =>
            {
                let changed = format!("_row_last_updated_at_version > {since}");
                let filter = match &spec.filter {
                    Some(filter) => format!("({filter}) AND {changed}"),
                    None => changed,
                };
                return match rows_of_set(snapshot, spec).await? {
                    None => snapshot.row_places(Some(&filter), None).await,
                    Some(rows) => places_of_ids(snapshot, rows.ids(), Some(&filter)).await,
                };
            }
            Err(error) => return Err(error),
        };
        let mut ids = RoaringTreemap::new();
        while let Some(batch) = batches.try_next().await? {
            let rows = batch.column_by_name("_rowid");
            let rows = rows.and_then(|rows| rows.as_primitive_opt::<UInt64Type>());
            let rows = rows.ok_or_else(|| Error::internal("changes without row ids"))?;
            ids.extend(rows.values().iter().copied());
        }
        if let Some(rows) = rows_of_set(snapshot, spec).await? {
            ids &= rows.ids();
        }
        match ids.is_empty() {
            true => Ok(RowPlaces::new()),
            false => places_of_ids(snapshot, &ids, spec.filter.as_deref()).await,
        }
    }

    /// Has the rows of a pass done and its fragments filled; returns the groups that moved.
    async fn fill_pass(
        self: &Arc<Self>,
        run: &Arc<Running>,
        table: &Arc<Table>,
        planned: Planned,
        done: &mut mpsc::UnboundedReceiver<u32>,
        replayed: &mut Replayed,
    ) -> Result<Vec<u32>> {
        let (pass, ticket) = planned;
        let mut ended = std::mem::take(&mut replayed.ended);
        // Runs were written once that went beyond their group: their rows are done again.
        ended.retain(|first, rows| pass.fragment_at(*first).is_some_and(|it| rows.end <= it.end));
        let filled = std::mem::take(&mut replayed.filled);
        let mut moved: Vec<u32> = std::mem::take(&mut replayed.moved).into_iter().collect();
        let mut open: BTreeSet<u32> =
            pass.fragments.iter().map(|fragment| fragment.group).collect();
        open.retain(|group| !filled.contains(group) && !moved.contains(group));
        let groups: Vec<GroupRows> = pass
            .fragments
            .iter()
            .filter(|fragment| open.contains(&fragment.group))
            .map(|fragment| open_rows(fragment, &ended))
            .collect();
        let whole = groups.iter().filter(|group| group.open.is_empty());
        let mut ready: Vec<u32> = whole.map(|group| group.group).collect();
        self.enter(run, &pass, ended, groups, ticket.is_some()).await?;
        // Workers may begin; what they have done is written after it.
        if let Some(ticket) = ticket {
            run.ledger.written(ticket).await?;
        }
        let pass = &pass;
        while !open.is_empty() {
            if ready.is_empty() {
                let group = done.recv().await;
                ready.push(group.ok_or_else(|| Error::internal("the groups of a job ended"))?);
            }
            while ready.len() < FILLED_AT_ONCE
                && let Ok(group) = done.try_recv()
            {
                ready.push(group);
            }
            ready.retain(|group| open.contains(group));
            let now: Vec<u32> = ready.drain(..ready.len().min(FILLED_AT_ONCE)).collect();
            if now.is_empty() {
                continue;
            }
            moved.extend(self.fill_groups(run, table, pass, &now).await?);
            open.retain(|group| !now.contains(group));
        }
        Ok(moved)
    }

    /// Shows a pass to everybody and hands its rows to the scheduler.
    async fn enter(
        self: &Arc<Self>,
        run: &Arc<Running>,
        pass: &Arc<Pass>,
        ended: BTreeMap<u64, EndedRows>,
        groups: Vec<GroupRows>,
        is_new: bool,
    ) -> Result<()> {
        let mut staged = Vec::new();
        if !is_new {
            let folder = format!("{}/parts", folder_of(run.id.as_str()));
            for object in self.system.list(&folder).await? {
                staged.extend(parts::parse_path(&object.path));
            }
        }
        {
            let mut state = run.state();
            let left: u64 = groups
                .iter()
                .filter_map(|group| pass.group(group.group))
                .map(|fragment| fragment.planned.places.len())
                .sum();
            state.rows = Some(state.rows_done + left);
            let open: BTreeSet<u32> = groups.iter().map(|group| group.group).collect();
            let is_open = |first: &u64| {
                pass.fragment_at(*first).is_some_and(|fragment| open.contains(&fragment.group))
            };
            for (first, rows) in ended.iter().filter(|(first, _)| is_open(first)) {
                state.rows_done += rows.end - first;
                state.errors += rows.errors;
            }
            let now_ms = self.clock.now_ms();
            let done = state.rows_done;
            state.since.get_or_insert((now_ms, done));
            state.staged = staged.iter().map(|(task, at, n)| ((*task, *at), *n)).collect();
            state.inline.clear();
            state.ended = ended;
            state.pass = Some(Arc::clone(pass));
        }
        self.step(Event::AddRows { job: run.id.clone(), groups });
        for (task, attempt, _) in staged {
            self.step(Event::Staged(AttemptId { job: run.id.clone(), task, attempt }));
        }
        self.wake();
        Ok(())
    }

    /// Notes on the columns where their values come from.
    async fn finish(&self, run: &Running, table: &Arc<Table>) -> Result<serde_json::Value> {
        let spec = &run.spec;
        let (model, rows, errors, version, has_given_up) = {
            let state = run.state();
            let model = state.model.clone();
            (model, state.rows_done, state.errors, state.version, state.has_given_up)
        };
        let digest = match &spec.work {
            Work::Model(ModelWork { registered: Some(registered), .. }) => {
                Some(registered.digest.clone())
            }
            _ => model.and_then(|model| model.digest),
        };
        let mut entries: BTreeMap<String, Option<String>> = origin(&spec.work, digest.as_deref())
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        // Rows that this job passed over, or gave up with the value that they had, may be stale since before
        // it: the next one has to look as far back as this one did.
        let takes_all = spec.filter.is_none() && spec.row_set.is_none();
        let is_whole = matches!(spec.work, Work::Model(_)) || (takes_all && !has_given_up);
        if is_whole {
            entries.insert(SOURCE_VERSION.to_owned(), Some(spec.source_version.to_string()));
        }
        entries.insert(JOB_ID.to_owned(), Some(run.id.to_string()));
        let changes: Vec<FieldMetadata> = spec
            .work
            .output_names()
            .into_iter()
            .map(|path| FieldMetadata { path, entries: entries.clone(), replace: false })
            .collect();
        let mut wait = WAIT_FIRST;
        let noted = loop {
            let noted = async {
                let table = self.lake.insist(table).await?;
                table.update_field_metadata(None, &changes).await
            };
            match noted.await {
                Err(error) if passes(&error) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
                noted => break noted?,
            }
        };
        let version = version.map_or(noted, |version| version.max(noted));
        Ok(match &spec.work {
            Work::Model(work) => json!({
                "rows": rows,
                "errors": errors,
                "version": version,
                "source_version": spec.source_version,
                "model": work.model,
                "model_digest": digest,
                "dimensions": work.dimensions,
            }),
            // As the clients of functions read it.
            Work::Function(_) => json!({
                "rows_assigned": rows.saturating_sub(errors),
                "rows_failed": errors,
                // Those that failed have no value, and are tried again by the next refresh.
                "rows_remaining": errors,
                "source_version": spec.source_version,
                "published_version": version,
            }),
        })
    }

    /// Writes a job's end into its record and deletes its ledger.
    async fn end(&self, job_id: &str, outcome: Result<serde_json::Value>, is_cancelled: bool) {
        let now_ms = self.clock.now_ms();
        let mut wait = WAIT_FIRST;
        loop {
            let changed = self.records.change(job_id, |job| {
                job.ended_at_ms = Some(now_ms);
                match &outcome {
                    Ok(result) => {
                        job.state = JobState::Done;
                        job.result = Some(result.clone());
                    }
                    Err(_) if is_cancelled => job.state = JobState::Cancelled,
                    Err(error) if error.kind() == ErrorKind::DeadlineExceeded => {
                        job.state = JobState::TimedOut;
                        job.failure = Some(error.message().to_owned());
                    }
                    Err(error) => {
                        job.state = JobState::Failed;
                        job.failure = Some(error.message().to_owned());
                    }
                }
            });
            match changed.await {
                Ok(_) => break,
                Err(error) if passes(&error) && !self.stop.is_cancelled() => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
                Err(error) => {
                    tracing::warn!(job_id, error = %error.report(), "a job's end was not stored");
                    return;
                }
            }
        }
        if let Err(error) = &outcome {
            tracing::info!(job_id, error = %error.report(), "a job ended without its result");
        }
        if let Err(error) = self.system.delete_below(&folder_of(job_id)).await {
            tracing::info!(job_id, error = %error.report(), "a job's ledger stays behind");
        }
    }
}

fn spec_of(job: &Job) -> Result<ColumnSpec> {
    serde_json::from_value(job.spec.clone()).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "the job's record cannot be read").with_source(error)
    })
}

/// A pass whose record is on its way to the ledger: what is written down after it is read after it.
fn begin_pass(run: &Running, record: Record, snapshot: Snapshot) -> Result<Planned> {
    let pass = Pass::open(&record, snapshot)?;
    Ok((Arc::new(pass), Some(run.ledger.queue(vec![record], Vec::new()))))
}

/// The rows of a fragment that have not ended.
fn open_rows(fragment: &PassFragment, ended: &BTreeMap<u64, EndedRows>) -> GroupRows {
    let (mut open, mut next) = (Vec::new(), fragment.first);
    for (first, rows) in ended.range(fragment.first..fragment.end) {
        if next < *first {
            open.push((next, *first));
        }
        next = rows.end;
    }
    if next < fragment.end {
        open.push((next, fragment.end));
    }
    GroupRows { group: fragment.group, first: fragment.first, open }
}

/// The rows of the set that a job keeps to.
async fn rows_of_set(snapshot: &Snapshot, spec: &ColumnSpec) -> Result<Option<Arc<RowMask>>> {
    let Some(text) = &spec.row_set else { return Ok(None) };
    let (_, rows) = snapshot.row_set(&RowSetRef::parse(text)?).await?;
    Ok(Some(rows))
}

/// True for rows that have no value yet.
fn without_values(work: &Work) -> String {
    let columns = work.output_names();
    let conditions: Vec<String> =
        columns.iter().map(|column| format!("`{column}` IS NULL")).collect();
    conditions.join(" AND ")
}

/// Whether what failed may succeed later without anybody doing anything.
pub(crate) fn passes(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Busy
            | ErrorKind::Unavailable
            | ErrorKind::Conflict
            | ErrorKind::CommitUnknown
            | ErrorKind::DeadlineExceeded
    )
}
