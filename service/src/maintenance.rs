//! Maintenance that runs beside requests: expired uploads, dropped tables, small fragments, rows that
//! indexes do not cover, and versions that nobody needs any more.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lakebed_compaction::{
    Budget, Done, Retention, TableSettings, Targets, catch_up, clean, compact, forget_done,
    is_history, note_done, sweep, sweep_blobs,
};
use lakebed_core::{ErrorKind, Result, TableId};
use lakebed_storage::{Pace, Table};
use tokio_util::sync::CancellationToken;

use crate::Service;

/// The newest version of each table that was looked at, by the table's uid: a table that nobody changed
/// since is not looked at again.
type Seen = HashMap<String, u64>;

/// Expired versions that are worth a cleaning.
const VERSIONS_MIN: usize = 100;
/// Of so many passes over all tables one cleans whatever is expired, and what no version names.
const PASSES_A_ROUND: u64 = 24;
/// After so many passes, and so long at most, what was done is written into the history.
const PASSES_A_NOTE: u32 = 10;
const NOTE_AGE_MAX: Duration = Duration::from_secs(300);
/// How long the end of the server waits for the last notes.
const LAST_NOTE_MAX: Duration = Duration::from_secs(2);
/// Notes that wait; more are forgotten.
const NOTES_MAX: usize = 10_000;
/// How long the history goes back: 30 days.
const HISTORY_AGE_MS: i64 = 30 * 24 * 3_600_000;

impl Service {
    /// Runs maintenance until `stop` is cancelled. A pass that fails is tried again by the next.
    pub async fn run_maintenance(self: Arc<Self>, stop: CancellationToken) {
        let interval = Duration::from_millis(self.limits.maintenance_interval_ms);
        let mut seen = Seen::new();
        let cleaning = Duration::from_millis(self.limits.cleaning_interval_ms);
        let (mut cleaned, mut cleanings) = (Instant::now(), 0_u64);
        let mut noted = Instant::now();
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            if self.leads_maintenance().await {
                self.sweep_lake().await;
            }
            stop.run_until_cancelled(self.finish_branches()).await;
            if self.limits.compaction_bytes_max > 0 {
                stop.run_until_cancelled(self.compact_open_tables(&mut seen)).await;
            }
            if cleaned.elapsed() >= cleaning {
                cleanings += 1;
                // Few versions are not worth reading all manifests, nor is what a killed write left,
                // but they shall not stay for ever.
                let is_whole = cleanings.is_multiple_of(PASSES_A_ROUND);
                let count_min = if is_whole { 0 } else { VERSIONS_MIN };
                stop.run_until_cancelled(self.clean_tables(count_min)).await;
                if is_whole && self.leads_maintenance().await {
                    stop.run_until_cancelled(self.clean_blobs()).await;
                }
                cleaned = Instant::now();
                if is_whole && self.leads_maintenance().await {
                    self.forget_history().await;
                }
            }
            if noted.elapsed() >= interval.saturating_mul(PASSES_A_NOTE).min(NOTE_AGE_MAX) {
                // A task of its own: a stop must not drop notes that are on their way.
                let service = Arc::clone(&self);
                let noting = tokio::spawn(async move { service.note_history().await });
                stop.run_until_cancelled(noting).await;
                noted = Instant::now();
            }
        }
        // What was done last is noted, too, unless the store is slow.
        let _ = tokio::time::timeout(LAST_NOTE_MAX, self.note_history()).await;
    }

    /// Notes what was done to a table, for the history.
    fn note_done(&self, began: Instant, mut done: Done) {
        if is_history(&done.location) {
            return;
        }
        done.at_ms = self.clock.now_ms();
        done.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut notes = self.maintained.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX {
            notes.push(done);
        }
    }

    /// Writes the notes into the history; what cannot be written is tried again later.
    async fn note_history(&self) {
        let notes = || self.maintained.lock().unwrap_or_else(PoisonError::into_inner);
        let done = std::mem::take(&mut *notes());
        if let Err(error) = note_done(&self.lake, &done).await {
            tracing::info!(error = %error.report(), "the history of maintenance is not written");
            notes().splice(..0, done);
        }
    }

    async fn forget_history(&self) {
        let before_ms = self.clock.now_ms().saturating_sub(HISTORY_AGE_MS);
        if let Err(error) = forget_done(&self.lake, before_ms).await {
            tracing::info!(error = %error.report(), "the history of maintenance is not shortened");
        }
    }

    /// How maintenance makes room for users.
    fn pace(&self) -> Pace {
        self.pace_while(self.admission.is_in_use())
    }

    /// The same by another sign of them.
    pub(crate) fn pace_while(&self, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Pace {
        let share = self.limits.maintenance_share_percent.min(100) as u32;
        Pace::new(share, is_busy)
    }

    /// Uploads whose time ran out, and dropped tables.
    async fn sweep_lake(&self) {
        match sweep(&self.lake).await {
            Ok(swept) => {
                metrics::counter!("lakebed_swept_uploads_total").increment(swept.uploads as u64);
                metrics::counter!("lakebed_swept_tables_total").increment(swept.tables as u64);
            }
            Err(error) => tracing::warn!(error = %error.report(), "maintenance pass failed"),
        }
    }

    /// Folders of branches that were deleted while they were read.
    async fn finish_branches(&self) {
        for table in self.lake.open_tables() {
            if self.maintains(&table).await
                && let Err(error) = table.finish_branch_deletions(None).await
            {
                tracing::info!(error = %error.report(), "a deleted branch's folder stays for now");
            }
        }
    }

    /// One table after the other, those that this process has worked with.
    async fn compact_open_tables(&self, seen: &mut Seen) {
        let tables = self.lake.open_tables();
        seen.retain(|uid, _| tables.iter().any(|table| table.uid() == uid));
        for table in tables {
            if !self.maintains(&table).await {
                continue;
            }
            // What changes while it is looked at is seen by the next pass.
            let version = match table.newest_known_version(None).await {
                Ok(version) if seen.get(table.uid()) != Some(&version) => version,
                Ok(_) => continue,
                Err(error) => {
                    let error = error.report();
                    tracing::warn!(table = table.location(), %error, "not looked at");
                    continue;
                }
            };
            let settings = match TableSettings::of(&table).await {
                Ok(settings) => settings,
                Err(error) => {
                    // Whoever mends it makes a new version.
                    if error.kind() != ErrorKind::Unavailable {
                        seen.insert(table.uid().to_owned(), version);
                    }
                    let error = error.report();
                    tracing::warn!(table = table.location(), %error, "not maintained");
                    continue;
                }
            };
            let is_compact =
                !settings.is_compacted || self.compact_in_budget(&table, &settings.targets).await;
            let is_indexed = !settings.is_indexed || self.catch_up_indexes(&table).await;
            if is_indexed && is_compact {
                seen.insert(table.uid().to_owned(), version);
            }
        }
    }

    /// Builds indexes anew that lack many rows; whether there is nothing more to do until the table
    /// changes.
    async fn catch_up_indexes(&self, table: &Arc<Table>) -> bool {
        let began = Instant::now();
        let about = |added| Done {
            location: table.location().to_owned(),
            action: "index",
            added,
            ..Done::default()
        };
        let now_ms = self.clock.now_ms();
        match catch_up(table, None, &self.compacting, &self.pace(), now_ms).await {
            Ok(done) => {
                metrics::counter!("lakebed_index_catch_ups_total").increment(done.built as u64);
                if done.built > 0 {
                    self.note_done(began, about(done.built as u64));
                }
                !done.is_pending
            }
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(
                    table = table.location(),
                    error = %error.report(),
                    "catching up with indexes failed"
                );
                self.note_done(began, Done { error: Some(error.report()), ..about(0) });
                // What else is wrong would be wrong again as long as the table is as it is.
                error.kind() != ErrorKind::Unavailable
            }
        }
    }

    /// Whether there is nothing more to do until the table changes.
    async fn compact_in_budget(&self, table: &Arc<Table>, targets: &Targets) -> bool {
        let budget = Budget { bytes_max: self.limits.compaction_bytes_max, is_dry_run: false };
        let pace = self.pace();
        let began = Instant::now();
        let about =
            || Done { location: table.location().to_owned(), action: "compact", ..Done::default() };
        match compact(table, None, targets, budget, &self.compacting, &pace).await {
            Ok(pass) => {
                metrics::counter!("lakebed_compacted_fragments_total")
                    .increment(pass.removed as u64);
                metrics::counter!("lakebed_compactions_lost_total").increment(pass.lost as u64);
                metrics::counter!("lakebed_folded_fragments_total").increment(pass.folded as u64);
                if pass.folded > 0 {
                    let (removed, bytes) = (pass.folded as u64, pass.folded_bytes);
                    let done = Done { action: "fold", removed, bytes, ..about() };
                    self.note_done(began, done);
                }
                if pass.done > 0 {
                    tracing::info!(
                        table = table.location(),
                        version = pass.version,
                        removed = pass.removed,
                        added = pass.added,
                        left = pass.left,
                        "compacted"
                    );
                    let done = Done {
                        version: Some(pass.version),
                        removed: pass.removed as u64,
                        added: pass.added as u64,
                        bytes: pass.bytes,
                        ..about()
                    };
                    self.note_done(began, done);
                }
                pass.planned.is_empty()
            }
            // It was dropped, and is here until its last reader is gone.
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(
                    table = table.location(),
                    error = %error.report(),
                    "a compaction failed"
                );
                self.note_done(began, Done { error: Some(error.report()), ..about() });
                false
            }
        }
    }

    /// All branches of all tables, one after the other.
    async fn clean_tables(&self, count_min: usize) {
        let databases = match self.lake.list_databases().await {
            Ok(databases) => databases,
            Err(error) => {
                tracing::warn!(error = %error.report(), "old versions are not looked for");
                return;
            }
        };
        for database in databases {
            let tables = match self.lake.list_tables(&database, None).await {
                Ok(tables) => tables,
                Err(error) => {
                    tracing::warn!(%database, error = %error.report(), "old versions are not looked for");
                    continue;
                }
            };
            for (id, location) in tables {
                let began = Instant::now();
                let outcome = self.clean_table(&id, count_min).await;
                self.pace().rest(began.elapsed()).await;
                match outcome {
                    Ok(()) => {}
                    // Dropped or renamed meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(table = location, error = %error.report(), "cleaning failed");
                    }
                }
            }
        }
    }

    /// Large blobs that nothing refers to any more, of the whole lake.
    async fn clean_blobs(&self) {
        let (now_ms, began) = (self.clock.now_ms(), Instant::now());
        match sweep_blobs(&self.lake, &self.limits, now_ms, false).await {
            Ok(swept) => {
                metrics::counter!("lakebed_swept_blobs_total").increment(swept.deleted.blobs);
                metrics::counter!("lakebed_swept_blob_bytes_total").increment(swept.deleted.bytes);
                if swept.deleted.blobs > 0 {
                    let (blobs, bytes) = (swept.deleted.blobs, swept.deleted.bytes);
                    tracing::info!(blobs, bytes, "large blobs are deleted");
                    let location = "_blobs".to_owned();
                    let action = "sweep_blobs";
                    let done = Done { location, action, removed: blobs, bytes, ..Done::default() };
                    self.note_done(began, done);
                }
            }
            // A backup; the next round comes.
            Err(error) if error.kind() == ErrorKind::Busy => {
                tracing::info!(error = %error.report(), "no blob is deleted");
            }
            Err(error) => tracing::warn!(error = %error.report(), "no blob is deleted"),
        }
    }

    async fn clean_table(&self, id: &TableId, count_min: usize) -> Result<()> {
        let table = self.lake.table(id).await?;
        if !self.maintains(&table).await {
            return Ok(());
        }
        if count_min == 0 {
            let age_ms = i64::try_from(self.limits.orphan_age_ms).unwrap_or(i64::MAX);
            let before_ms = self.clock.now_ms().saturating_sub(age_ms);
            table.finish_branch_deletions(Some(before_ms)).await?;
        }
        let retention = Retention::of(&table, &self.limits).await?;
        for branch in table.branch_names().await? {
            let (now_ms, began) = (self.clock.now_ms(), Instant::now());
            let cleaned =
                clean(&table, branch.as_deref(), &retention, now_ms, count_min, false).await?;
            metrics::counter!("lakebed_cleaned_versions_total")
                .increment(cleaned.versions.len() as u64);
            metrics::counter!("lakebed_cleaned_files_total")
                .increment(cleaned.files.values().sum::<u64>());
            metrics::counter!("lakebed_cleaned_bytes_total").increment(cleaned.bytes);
            if !cleaned.versions.is_empty() {
                tracing::info!(
                    table = table.location(),
                    branch,
                    versions = cleaned.versions.len(),
                    bytes = cleaned.bytes,
                    "old versions are deleted"
                );
                let done = Done {
                    location: table.location().to_owned(),
                    branch,
                    action: "clean",
                    removed: cleaned.versions.len() as u64,
                    bytes: cleaned.bytes,
                    ..Done::default()
                };
                self.note_done(began, done);
            }
        }
        Ok(())
    }
}
