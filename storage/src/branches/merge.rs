//! Take what a branch changed into its parent, in one version.
//!
//! ```text
//!   both sides compared ─► contradictions? ─► refused, or settled for one side
//!                                   │
//!                                   └─► files written ─► newest version still the one compared? ─► version
//!                                            └──── no: compared and written again, while nothing changes
//! ```
//!
//! A branch is merged once. The version that has its rows says so in the table's configuration, so a
//! merge that is sent twice is done once: rows that it brought have other ids on the parent than on the
//! branch, and a later merge of the same branch could not tell them. Who wants to go on branches again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lakebed_core::{BranchName, ErrorKind, Result};
use lance::dataset::transaction::Transaction;
use lance_table::format::Manifest;
use roaring::RoaringTreemap;

use super::divergence::{BranchDiff, ConflictKind, Divergence, RowCounts, field};
use super::patch::Patch;
use super::side::Reshaped;
use crate::table::{Branch, Table};
use crate::write::discard;

/// The property of a transaction that merges a branch: what its version says about it.
const MERGE_PROPERTY: &str = "lakebed.merge";
/// Where a table's configuration says what was merged, before the branch's name.
const MERGED_KEY: &str = "lakebed.merged.";
/// Conflicts that are named.
const SAMPLES: usize = 100;
/// Times that a merge is built again.
const TRIES_MAX: usize = 5;

/// Whose changes count where a branch and its parent contradict each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MergeSides {
    /// Nobody's: nothing is merged.
    #[default]
    Neither,
    /// The parent's.
    Parent,
    /// The branch's.
    Branch,
}

/// How a branch is merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BranchMerge {
    /// What happens where the two contradict each other.
    pub sides: MergeSides,
    /// The columns that tell rows apart, so that both bringing a row of one key is a contradiction. The
    /// table's primary key where absent.
    pub on: Option<Vec<String>>,
    /// Whether nothing is merged if the parent has changed since the branch began.
    pub fast_forward_only: bool,
    /// Whether nothing is merged in any case.
    pub is_dry_run: bool,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedBranch {
    /// The version of the parent that has the changes; nothing where none was made.
    pub version: Option<u64>,
    /// Whether it was merged before.
    pub is_repeat: bool,
    /// Whether contradictions were left, so that nothing was merged.
    pub is_refused: bool,
    /// Rows of the parent that were inserted, updated and deleted.
    pub rows: RowCounts,
    /// How the two were apart.
    pub diff: BranchDiff,
}

impl Table {
    /// Merges a branch into the branch that it began on.
    ///
    /// # Errors
    /// `NotFound` for the branch; `Conflict` when the parent moved on and only a fast forward was asked
    /// for, when an earlier state of the branch was merged, or when the parent is changed all the time;
    /// `InvalidArgument` for keys and for rows that do not fit the parent.
    pub fn merge_branch<'a>(
        self: &'a Arc<Self>,
        name: &'a BranchName,
        merge: BranchMerge,
    ) -> BoxFuture<'a, Result<MergedBranch>> {
        self.merge(name, merge).boxed()
    }

    async fn merge(
        self: &Arc<Self>,
        name: &BranchName,
        merge: BranchMerge,
    ) -> Result<MergedBranch> {
        let (mut mutation, mut turn) = (None, None);
        let mut tries = 1;
        loop {
            let is_whole = merge.fast_forward_only;
            let apart = Divergence::read(self, name, merge.on.as_deref(), is_whole).await?;
            let parent = self.branch(apart.parent.as_deref()).await?;
            if let Some(done) = self.repeated(name, &apart).await? {
                return Ok(done);
            }
            let has_moved =
                apart.ours.tip.version() != apart.ours.base.version() && !apart.ours.is_unchanged();
            if merge.fast_forward_only && has_moved {
                return Err(super::divergence::branch_error(format!(
                    "`{}` was changed since branch `{name}` began, so it cannot be fast-forwarded",
                    apart.parent.as_deref().unwrap_or("main")
                )));
            }
            let settled = Settled::of(&apart, merge.sides);
            let diff = apart.shown(SAMPLES).await?;
            let Some(settled) = settled else {
                return Ok(nothing_done(diff, true));
            };
            let has_nothing =
                settled.rows() == RowCounts::default() && missing_columns(&apart).is_empty();
            if merge.is_dry_run || has_nothing {
                return Ok(MergedBranch { rows: settled.rows(), ..nothing_done(diff, false) });
            }
            let _pin = parent.hold().await?;
            if mutation.is_none() && self.prepare(&parent, &apart).await? {
                // What goes into the parent goes into the version that was made for it.
                continue;
            }
            let claims = self.shared.write_claims();
            let rows = settled.rows();
            let patch = settled.patch(&apart);
            let (operation, written) = patch.build(&claims).await?;
            let note = format!("{name}={}@{}", apart.identity, apart.theirs.tip.version());
            let mut transaction = Transaction::new(apart.ours.tip.version(), operation, None);
            let properties = HashMap::from([(MERGE_PROPERTY.to_owned(), note)]);
            transaction.transaction_properties = Some(Arc::new(properties));
            claims.may_commit();
            let outcome = match &mutation {
                Some(_) => {
                    parent.commit_on_newest(transaction, Vec::new(), None, turn.take()).await
                }
                None => {
                    let _mutation = parent.mutation.lock().await;
                    parent.commit_on_newest(transaction, Vec::new(), None, None).await
                }
            };
            claims.end(&outcome);
            match outcome {
                Ok(committed) => {
                    let version = Some(committed.version().version);
                    return Ok(MergedBranch { version, rows, ..nothing_done(diff, false) });
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    let base = &apart.ours.tip.dataset.branch_location().path;
                    discard(&self.shared, base, &written).await?;
                    if tries == TRIES_MAX {
                        return Err(error);
                    }
                    tries += 1;
                    // This time nobody changes the parent meanwhile.
                    if mutation.is_none() {
                        mutation = Some(Arc::clone(&parent.mutation).lock_owned().await);
                    }
                    turn = Some(parent.turn().await);
                    parent.latest().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What an earlier merge of the branch did.
    async fn repeated(
        &self,
        name: &BranchName,
        apart: &Divergence,
    ) -> Result<Option<MergedBranch>> {
        let Some((identity, version)) = merged_in(apart.ours.tip.dataset.manifest(), name) else {
            return Ok(None);
        };
        if identity != apart.identity {
            return Ok(None);
        }
        if version != apart.theirs.tip.version() {
            return Err(super::divergence::branch_error(format!(
                "version {version} of branch `{name}` was merged, and rows that it brought have other \
                 ids since; begin a new branch for what comes after it"
            )));
        }
        let diff = apart.shown(0).await?;
        Ok(Some(MergedBranch { is_repeat: true, ..nothing_done(diff, false) }))
    }

    /// Makes the parent ready to take the branch's rows, which may have columns that it lacks; says
    /// whether that made a version.
    async fn prepare(&self, parent: &Arc<Branch>, apart: &Divergence) -> Result<bool> {
        let before = parent.latest().await?.version().version;
        parent.ensure_blob_base_for(&apart.theirs.tip.dataset.schema().into()).await?;
        let is_registered = parent.latest().await?.version().version != before;
        let fields = missing_columns(apart);
        if fields.is_empty() {
            return Ok(is_registered);
        }
        let schema = Arc::new(Schema::new(fields));
        self.add_null_columns(apart.parent.as_deref(), schema).await?;
        Ok(true)
    }
}

/// The columns that the branch added and its parent does not have.
fn missing_columns(apart: &Divergence) -> Vec<Field> {
    let new = apart.theirs.reshaped.iter().filter(|(_, how)| **how == Reshaped::Added);
    new.filter(|(name, _)| field(&apart.ours.tip, Some(name)).is_none())
        .filter_map(|(name, _)| field(&apart.theirs.tip, Some(name)).map(Field::from))
        .collect()
}

fn nothing_done(diff: BranchDiff, is_refused: bool) -> MergedBranch {
    let rows = RowCounts::default();
    MergedBranch { version: None, is_repeat: false, is_refused, rows, diff }
}

/// The changes of a branch, as far as they go into the parent.
struct Settled {
    cells: BTreeMap<String, RoaringTreemap>,
    deleted: RoaringTreemap,
    inserted: RoaringTreemap,
}

impl Settled {
    /// Nothing where contradictions are left.
    fn of(apart: &Divergence, sides: MergeSides) -> Option<Settled> {
        let conflicts = apart.counts();
        if conflicts.contains_key(&ConflictKind::Column)
            || (sides == MergeSides::Neither && !conflicts.is_empty())
        {
            return None;
        }
        let theirs = &apart.theirs;
        let mut settled = Settled {
            cells: theirs.updated.clone(),
            deleted: theirs.deleted.clone() - &apart.ours.deleted,
            inserted: theirs.inserted.clone(),
        };
        // A row that is not there any more has no cells.
        settled.cells.values_mut().for_each(|rows| *rows -= &apart.ours.deleted);
        match sides {
            MergeSides::Neither => {}
            MergeSides::Parent => {
                for (name, rows) in &apart.cells {
                    if let Some(cells) = settled.cells.get_mut(name) {
                        *cells -= rows;
                    }
                }
                settled.deleted -= &apart.deleted_on_branch;
                settled.inserted -= apart.keys.keys().copied().collect::<RoaringTreemap>();
            }
            MergeSides::Branch => {
                // They come back as new rows.
                settled.inserted |= &apart.deleted_on_parent;
                settled.deleted.extend(apart.keys.values().copied());
                let deleted = settled.deleted.clone();
                settled.cells.values_mut().for_each(|rows| *rows -= &deleted);
            }
        }
        settled.cells.retain(|_, rows| !rows.is_empty());
        Some(settled)
    }

    fn rows(&self) -> RowCounts {
        let updated = self.cells.values().fold(RoaringTreemap::new(), |all, rows| all | rows);
        RowCounts {
            inserted: self.inserted.len(),
            updated: updated.len(),
            deleted: self.deleted.len(),
        }
    }

    fn patch(self, apart: &Divergence) -> Patch<'_> {
        let Settled { cells, deleted, inserted } = self;
        Patch { apart, cells, deleted, inserted }
    }
}

/// Notes in a manifest which branch its transaction merged.
pub(crate) fn note_merge(
    manifest: &mut Manifest,
    transaction: Option<&lance_table::format::Transaction>,
) {
    let properties = transaction.map(|transaction| &transaction.inner.transaction_properties);
    let note = properties.and_then(|properties| properties.get(MERGE_PROPERTY));
    if let Some((name, what)) = note.and_then(|note| note.rsplit_once('=')) {
        manifest.config.insert(format!("{MERGED_KEY}{name}"), what.to_owned());
        manifest.writer_feature_flags |= lance_table::feature_flags::FLAG_TABLE_CONFIG;
    }
}

/// What tells the branch of a name that was merged, and its version.
fn merged_in(manifest: &Manifest, name: &BranchName) -> Option<(String, u64)> {
    let said = manifest.config.get(&format!("{MERGED_KEY}{name}"))?;
    let (identity, version) = said.split_once('@')?;
    Some((identity.to_owned(), version.parse().ok()?))
}
