//! Backup and restore: a lake, or some of its tables, copied to another root.
//!
//! A backup is a lake: its manifests have the paths of the place where it lies, so it can be served,
//! examined and read by other tools as it is. What makes it a backup is the record beside it.
//!
//! ```text
//!   backup_running.json ─► state that must not be ahead ─► files of every table ─► large blobs
//!        (first)                                                                       │
//!   backup.json ◄─ lake.json ◄─ catalogues ◄─ receipts, keys, jobs ◄─ versions, tags ◄──┘
//!     (last)
//! ```
//!
//! What always holds:
//! - A version is in the target only when everything it names is; a catalogue names only tables whose
//!   versions are. Cut off anywhere, what is there is complete, and running it again goes on.
//! - Data files, blobs and indexes are written once under names of their own, so what is there with the
//!   same size is not copied again. Versions are compared as `history.rs` says.
//! - While a lake that is open is copied, nothing of it is deleted: see `Pins::keep_all`.
//! - On a local target all is synced before the record is written.
//!
//! | to | look in |
//! | --- | --- |
//! | know what of a table is copied, in which order | `table.rs`, `history.rs` |
//! | copy one object, with retries and within memory | `copier.rs` |
//! | know what of `_lakebed/` comes along | `state.rs`, `catalogs.rs` |
//! | see which places are refused | `place.rs`, `record.rs` |
//! | put a lake or a table back | `restore.rs` |
//! | delete what the lake has no more | `prune.rs` |

mod blobs;
mod catalogs;
mod copier;
mod history;
mod listing;
mod place;
mod progress;
mod prune;
mod record;
mod restore;
mod state;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use lakebed_core::{Error, Result, TableId};

pub use progress::{BackupCounts, BackupProgress};
pub use prune::Pruned;
pub use record::{BackedUpBranch, BackedUpTable, BackupRecord};
pub use restore::{RestoreTable, Restored, restore, restore_tables};

pub(crate) use blobs::{digest_of, uris, what_it_holds};
pub(crate) use history::{manifest, versions};
pub(crate) use listing::{Paths, listing};
pub(crate) use record::{BACKUP_RECORD, ORIGIN_RECORD, refuse_cut_off};
pub(crate) use table::{below_root, branch_names};

use crate::lake::{Lake, LakeOptions, LakeRecord, encode_record};
use crate::root::Root;
use crate::system::SystemStore;
use catalogs::{Catalogs, Selection};
use copier::Copier;
use place::{Kind, Place};
use record::RunningRecord;
use table::{TablePlan, Transfer};

/// What to copy, and where.
#[derive(Debug, Clone)]
pub struct BackupSpec {
    /// A folder or `s3://bucket/prefix`.
    pub to: String,
    /// Options of the target's S3 store beyond the `AWS_*` environment.
    pub storage_options: HashMap<String, String>,
    /// The tables; the whole lake when empty.
    pub tables: Vec<TableId>,
    /// Whether the audit log comes along.
    pub with_audit: bool,
    /// Whether what the lake has no more is deleted from the backup afterwards.
    pub prune: bool,
    /// Only count.
    pub is_dry_run: bool,
}

impl BackupSpec {
    /// The whole lake to a place.
    pub fn to(place: impl Into<String>) -> Self {
        BackupSpec {
            to: place.into(),
            storage_options: HashMap::new(),
            tables: Vec::new(),
            with_audit: false,
            prune: false,
            is_dry_run: false,
        }
    }
}

/// What a backup did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Backup {
    /// The lake.
    pub lake_id: String,
    /// Where the backup lies.
    pub to: String,
    /// Whether nothing was written.
    #[serde(rename = "dry_run")]
    pub is_dry_run: bool,
    /// Whether an earlier backup was there.
    #[serde(rename = "incremental")]
    pub is_incremental: bool,
    /// What was copied and what was there.
    pub counts: BackupCounts,
    /// What was deleted from the backup.
    pub pruned: Pruned,
    /// What the reader should know: places outside the lake that tables refer to.
    pub notes: Vec<String>,
}

/// Where a copy comes from.
struct Origin<'a> {
    root: &'a Root,
    system: &'a SystemStore,
    /// Its `root` is where its manifests say that it lies.
    record: LakeRecord,
}

impl Lake {
    /// Copies the lake, or some of its tables, to another root. The lake may be written to meanwhile:
    /// each table is copied as it was at one moment, with all its versions, tags and branches.
    ///
    /// # Errors
    /// `InvalidArgument` for a place that is none, `AlreadyExists` for one that holds something else,
    /// `NotFound` naming a table, `Corrupt` for a version that is not whole, `Unavailable` when a store
    /// does not answer or the disk is full; then running it again goes on.
    pub fn backup<'a>(
        self: &'a Arc<Self>,
        spec: &'a BackupSpec,
        progress: &'a BackupProgress,
    ) -> BoxFuture<'a, Result<Backup>> {
        async move {
            if spec.prune && !spec.tables.is_empty() {
                return Err(Error::invalid(
                    "a backup is pruned as a whole: leave out the tables, or `prune`",
                ));
            }
            let origin = Origin {
                root: &self.shared.root,
                system: &self.shared.system,
                record: self.record.clone(),
            };
            let options = LakeOptions {
                storage_options: spec.storage_options.clone(),
                limits: self.shared.limits.clone(),
                clock: self.shared.clock.clone(),
                ..LakeOptions::at(spec.to.clone())
            };
            let id = self.lake_id();
            let place =
                Place::open(&options, origin.root, id, Kind::Backup, spec.is_dry_run).await?;
            let _kept = self.shared.pins.keep_all().await;
            let copy = WholeCopy {
                origin,
                place: &place,
                kind: Kind::Backup,
                selection: Selection::of(&spec.tables),
                with_audit: spec.with_audit,
                is_dry_run: spec.is_dry_run,
                prune: spec.prune,
                now_ms: self.shared.clock.now_ms(),
                progress,
            };
            let finished_at_ms = || self.shared.clock.now_ms();
            copy.run(&spec.to, &finished_at_ms).await
        }
        .boxed()
    }

    /// Notes that a backup is a lake of its own from now on, because it is being served: what is
    /// written to it would be lost by the next backup into it, which is refused from then on.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn leave_backup(&self) -> Result<()> {
        let system = &self.shared.system;
        let Some(record) = system.get(BACKUP_RECORD).await? else { return Ok(()) };
        system.put(ORIGIN_RECORD, record).await?;
        system.delete(BACKUP_RECORD).await?;
        tracing::info!("a backup is served: it is a lake of its own from now on");
        Ok(())
    }
}

/// A copy of a lake, or of some of its tables, with everything beside them.
struct WholeCopy<'a> {
    origin: Origin<'a>,
    place: &'a Place,
    kind: Kind,
    selection: Selection,
    with_audit: bool,
    is_dry_run: bool,
    prune: bool,
    now_ms: i64,
    progress: &'a BackupProgress,
}

impl WholeCopy<'_> {
    #[boxed]
    async fn run(&self, shown: &str, clock: &(dyn Fn() -> i64 + Sync)) -> Result<Backup> {
        let (origin, place) = (&self.origin, self.place);
        let lake_id = origin.record.lake_id.clone();
        let catalogs = Catalogs::read(origin.system, &self.selection).await?;
        let tables = catalogs.tables(place.before.as_ref());
        self.progress.planned(tables.len());
        if !self.is_dry_run {
            let running =
                RunningRecord::new(&lake_id, self.kind.name(), origin.root.uri(), self.now_ms);
            place.begin(&running).await?;
        }
        let transfer = Transfer {
            from: origin.root,
            made_at: &origin.record.root,
            to: &place.root,
            copier: Copier::new(origin.root, &place.root, self.progress, self.is_dry_run),
            progress: self.progress,
        };
        let early = state::read_early(origin.root).await?;
        let mut plans: Vec<TablePlan> = Vec::new();
        for table in &tables {
            plans.push(transfer.copy_files(table).await?);
        }
        match &self.selection {
            Selection::Lake => {
                transfer.copy_all_blobs().await?;
                transfer.copy_model_files().await?;
            }
            Selection::Tables(_) => {
                for plan in &plans {
                    transfer.copy_blobs_of(plan, None).await?;
                }
            }
        }
        // What a version names is on disk before the version is.
        transfer.copier.sync_folders().await?;
        for plan in &plans {
            transfer.copy_versions(plan).await?;
            transfer.copy_receipts(plan).await?;
        }
        if self.selection == Selection::Lake {
            transfer.copy_state(early, self.with_audit, self.now_ms).await?;
        }
        let mut done = Backup {
            lake_id,
            to: shown.to_owned(),
            is_dry_run: self.is_dry_run,
            is_incremental: place.before.is_some(),
            counts: self.progress.counts(),
            pruned: Pruned::default(),
            notes: notes(&plans),
        };
        if self.is_dry_run {
            return Ok(done);
        }
        catalogs.copy_code(origin.system, &place.system).await?;
        catalogs.write(&place.system).await?;
        let lake = LakeRecord { root: place.root.uri().to_owned(), ..origin.record.clone() };
        place.system.put(crate::lake::LAKE_RECORD, encode_record(&lake)?).await?;
        done.counts = self.progress.counts();
        if self.kind == Kind::Backup {
            let record = self.record(&plans, done.counts, clock).await?;
            record::write(&place.system, record::BACKUP_RECORD, &record).await?;
            place.end().await?;
            if self.prune {
                done.pruned = transfer.prune(&record, &plans).await?;
            }
        } else {
            place.end().await?;
        }
        Ok(done)
    }

    async fn record(
        &self,
        plans: &[TablePlan],
        copied: BackupCounts,
        clock: &(dyn Fn() -> i64 + Sync),
    ) -> Result<BackupRecord> {
        let (mut files, mut bytes) = (0, 0);
        let mut found = listing(&self.place.root, "");
        while let Some(object) = found.try_next().await? {
            files += 1;
            bytes += object.size;
        }
        let mut tables: Vec<BackedUpTable> = plans.iter().map(|plan| self.told(plan)).collect();
        if let (Selection::Tables(_), Some(before)) = (&self.selection, &self.place.before) {
            let is_new = |old: &BackedUpTable| {
                tables.iter().any(|new| {
                    new.location == old.location
                        || (&new.database, &new.table) == (&old.database, &old.table)
                })
            };
            let kept: Vec<BackedUpTable> =
                before.tables.iter().filter(|old| !is_new(old)).cloned().collect();
            tables.extend(kept);
        }
        tables.sort_by(|a, b| (&a.database, &a.table).cmp(&(&b.database, &b.table)));
        Ok(BackupRecord {
            format: BackupRecord::FORMAT,
            lake_id: self.origin.record.lake_id.clone(),
            source: self.origin.root.uri().to_owned(),
            started_at_ms: self.now_ms,
            finished_at_ms: clock(),
            is_whole_lake: self.selection == Selection::Lake,
            copied,
            files,
            bytes,
            tables,
        })
    }

    fn told(&self, plan: &TablePlan) -> BackedUpTable {
        let branches = plan.branches.iter().map(|branch| BackedUpBranch {
            branch: branch.name.clone(),
            versions: branch.versions.len() as u64,
            oldest: branch.versions.keys().next().copied(),
            newest: branch.versions.keys().next_back().copied(),
        });
        BackedUpTable {
            database: plan.table.id.database.to_string(),
            table: plan.table.id.text(),
            uid: plan.table.new_uid.clone(),
            location: plan.table.new_location.clone(),
            copied_at_ms: self.now_ms,
            branches: branches.collect(),
            outside: plan.outside.iter().cloned().collect(),
        }
    }
}

fn notes(plans: &[TablePlan]) -> Vec<String> {
    let mut notes = Vec::new();
    for plan in plans {
        for place in &plan.outside {
            notes.push(format!(
                "`{}` refers to files at `{place}`, outside the lake, which were not copied",
                plan.table.id
            ));
        }
    }
    notes
}
