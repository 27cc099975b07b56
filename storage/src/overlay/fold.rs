//! Folding: a column is written anew for one fragment, with the cells that lay over it.
//!
//! ```text
//!   fragment with overlays ─► column + overlays, row for row ─► new column file, no lock held
//!                                                                      │ synced
//!        mutation lock ─► is the fragment as it was? ─► version without the overlays
//! ```
//!
//! No value changes, so rows are not stamped as changed and readers of changes see none. Other columns and
//! blobs are neither read nor written. Where the fragment got another overlay meanwhile, the new file is
//! given up, and what is small is written once more while no row can be changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::transaction::{DataReplacementGroup, Transaction};
use lance_core::datatypes::Schema;
use lance_table::format::{DataFile, Fragment};

use super::OverlaidFragment;
use crate::column_patch::{Patched, alone, ids_below, with_file};
use crate::commit::TRIES_MAX;
use crate::lance_error::from_lance;
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::snapshot::{At, Snapshot};
use crate::table::{Branch, Table};
use crate::write::discard;

/// Rows that are read and written at a time.
const ROWS_MAX: u64 = 8_192;
/// Fragments that go into one version.
const FRAGMENTS_MAX: usize = 64;
/// What is small enough to be written while no row of the branch can be changed: a second or less.
const LOCKED_BYTES_MAX: u64 = 64 << 20;
/// Overlays of a fragment from which on maintenance folds them.
const FILES_DUE: usize = 8;
/// The share of rows from which on it does, as one in so many.
const SHARE_DUE: u64 = 20;

/// Which overlays are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoldRule {
    /// All of them.
    All,
    /// Those of fragments that have eight, or a value for a twentieth of their rows.
    Due,
}

impl FoldRule {
    fn takes(self, fragment: &OverlaidFragment) -> bool {
        match self {
            FoldRule::All => true,
            FoldRule::Due => {
                fragment.files >= FILES_DUE
                    || fragment.covered.saturating_mul(SHARE_DUE) >= fragment.rows
            }
        }
    }
}

/// What folding did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// The newest version after it.
    pub version: u64,
    /// Fragments without overlays.
    pub fragments: usize,
    /// Bytes of their new column files.
    pub bytes: u64,
    /// Fragments that changed meanwhile; they are folded another time.
    pub lost: usize,
}

/// What became of some fragments.
#[derive(Default)]
struct Round {
    version: Option<u64>,
    fragments: usize,
    bytes: u64,
    /// Those that changed meanwhile, and the bytes that were written for them.
    lost: Vec<u32>,
    lost_bytes: u64,
}

impl Folded {
    fn add(&mut self, round: &Round) {
        self.version = round.version.unwrap_or(self.version);
        self.fragments += round.fragments;
        self.bytes += round.bytes;
    }
}

/// A column file that takes the place of overlays and is not committed.
struct NewFile {
    /// Nothing where all that lies over the fragment is of columns that were dropped.
    file: Option<DataFile>,
    /// The fragment that it was made of.
    before: Fragment,
    alone: Fragment,
}

impl Table {
    /// Folds the overlays of a branch's newest version.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer. What was folded
    /// before stays so.
    pub fn fold_overlays<'a>(
        self: &'a Arc<Self>,
        branch: Option<&'a str>,
        rule: FoldRule,
    ) -> BoxFuture<'a, Result<Folded>> {
        async move {
            let handle = self.branch(branch).await?;
            let _pin = handle.hold().await?;
            let snapshot = self.snapshot(branch, &At::Latest).await?;
            let mut folded = Folded { version: snapshot.version(), ..Folded::default() };
            let due: Vec<u32> = snapshot
                .overlaid_fragments()
                .into_iter()
                .filter(|fragment| rule.takes(fragment))
                .map(|fragment| fragment.id)
                .collect();
            for ids in due.chunks(FRAGMENTS_MAX) {
                let mut round = Round::default();
                let snapshot = self.snapshot(branch, &At::Latest).await?;
                for (overlaid, new) in new_files(&snapshot, ids).await? {
                    let _mutation = handle.mutation.lock().await;
                    handle.commit_folded(&overlaid, new, &mut round).await?;
                }
                folded.add(&round);
                if round.lost.is_empty() || round.lost_bytes > LOCKED_BYTES_MAX {
                    folded.lost += round.lost.len();
                    continue;
                }
                let mut again = Round::default();
                let _mutation = handle.mutation.lock().await;
                let snapshot = self.snapshot(branch, &At::Latest).await?;
                for (overlaid, new) in new_files(&snapshot, &round.lost).await? {
                    handle.commit_folded(&overlaid, new, &mut again).await?;
                }
                folded.add(&again);
                folded.lost += again.lost.len();
            }
            Ok(folded)
        }
        .boxed()
    }
}

/// Writes the columns of fragments that overlays lie over, by the ids of the fields in these overlays.
async fn new_files(snapshot: &Snapshot, ids: &[u32]) -> Result<BTreeMap<Vec<u32>, Vec<NewFile>>> {
    let mut files: BTreeMap<Vec<u32>, Vec<NewFile>> = BTreeMap::new();
    for id in ids {
        match new_file(snapshot, *id).await {
            Ok(Some((overlaid, file))) => files.entry(overlaid).or_default().push(file),
            Ok(None) => {}
            Err(error) => {
                let written: Vec<Fragment> =
                    files.into_values().flatten().map(|new| new.alone).collect();
                let base = &snapshot.dataset.branch_location().path;
                discard(&snapshot.table().shared, base, &written).await?;
                return Err(error);
            }
        }
    }
    Ok(files)
}

async fn new_file(snapshot: &Snapshot, id: u32) -> Result<Option<(Vec<u32>, NewFile)>> {
    // It may have been rewritten meanwhile.
    let Some(fragment) = snapshot.dataset.get_fragment(id as usize) else { return Ok(None) };
    let before = fragment.metadata().clone();
    let schema = snapshot.dataset.schema();
    let overlaid: BTreeSet<u32> = before
        .overlays
        .iter()
        .flat_map(|overlay| overlay.data_file.fields.iter())
        .filter_map(|field| u32::try_from(*field).ok())
        .collect();
    let columns = schema.fields.iter();
    let columns = columns.filter(|field| ids_below(field).iter().any(|id| overlaid.contains(id)));
    let (fields, names): (Vec<i32>, Vec<String>) =
        columns.map(|field| (field.id, field.name.clone())).unzip();
    let overlaid: Vec<u32> = overlaid.into_iter().collect();
    if overlaid.is_empty() {
        return Ok(None);
    }
    if fields.is_empty() {
        let alone = Fragment::new(before.id);
        return Ok(Some((overlaid, NewFile { file: None, before, alone })));
    }
    let target: Schema = schema.project_by_ids(&fields, true);
    let spec = ScanSpec { projection: Projection::Names(names), ..ScanSpec::default() };
    let step = snapshot.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
    let rows = fragment.physical_rows().await.map_err(from_lance)? as u64;
    let batches = fragment
        .read_physical_slice(0..rows, &target, u32::try_from(step).unwrap_or(1))
        .await
        .map_err(from_lance)?;
    let source = batches.then(|batch| batch);
    let DataReplacementGroup(_, file) =
        Box::pin(fragment.write_columns(source, &target)).await.map_err(from_lance)?;
    let alone = alone(&fragment, &file);
    Ok(Some((overlaid, NewFile { file: Some(file), before, alone })))
}

impl Branch {
    /// Commits column files in the place of overlays, where their fragments are as they were. The caller
    /// holds the mutation lock.
    async fn commit_folded(
        self: &Arc<Self>,
        overlaid: &[u32],
        new: Vec<NewFile>,
        round: &mut Round,
    ) -> Result<()> {
        let mut turn = None;
        for tries in 1.. {
            let latest = self.latest().await?;
            let base = latest.branch_location().path.clone();
            // The overlays of columns that were dropped go, too.
            let mut fields: BTreeSet<u32> = overlaid.iter().copied().collect();
            for below in latest.schema().fields.iter().map(ids_below) {
                if below.iter().any(|id| overlaid.contains(id)) {
                    fields.extend(below);
                }
            }
            let mut patched =
                Patched { fields: fields.into_iter().collect(), ..Patched::default() };
            let (mut bytes, mut lost, mut lost_bytes) = (0, Vec::new(), 0);
            for one in &new {
                let size = one.file.as_ref().and_then(|file| file.file_size_bytes.get());
                let size = size.map_or(0, u64::from);
                match as_it_was(&latest, &one.before) {
                    Some(now) => {
                        bytes += size;
                        let now = now.clone();
                        patched.fragments.push(match &one.file {
                            Some(file) => with_file(now, file.clone()),
                            None => now,
                        });
                        patched.written.push(one.alone.clone());
                    }
                    None => {
                        lost.push(one.alone.clone());
                        lost_bytes += size;
                    }
                }
            }
            let (count, written) = (patched.fragments.len(), patched.written.clone());
            if count > 0 {
                let version = latest.version().version;
                let transaction = Transaction::new(version, patched.into_operation(), None);
                match self.commit_on_newest(transaction, Vec::new(), None, turn.take()).await {
                    Ok(committed) => round.version = Some(committed.version().version),
                    Err(error) if error.kind() == ErrorKind::Conflict && tries < TRIES_MAX => {
                        // Rows were appended; what was written is as good as before.
                        turn = Some(self.turn().await);
                        continue;
                    }
                    Err(error) => {
                        if error.kind() == ErrorKind::Conflict {
                            lost.extend(written);
                            discard(&self.shared, &base, &lost).await?;
                        }
                        return Err(error);
                    }
                }
            }
            discard(&self.shared, &base, &lost).await?;
            round.fragments += count;
            round.bytes += bytes;
            round.lost.extend(lost.iter().map(|fragment| fragment.id as u32));
            round.lost_bytes += lost_bytes;
            return Ok(());
        }
        Err(Error::internal("folding was tried too often"))
    }
}

/// A fragment of the newest version, where it has the files and overlays that it had.
fn as_it_was<'a>(latest: &'a Dataset, before: &Fragment) -> Option<&'a Fragment> {
    let now = latest.fragments().iter().find(|now| now.id == before.id)?;
    let paths = |fragment: &Fragment| -> Vec<(String, Vec<i32>)> {
        let files = fragment.referenced_lance_files();
        files.map(|file| (file.path.clone(), file.fields.to_vec())).collect()
    };
    (paths(now) == paths(before) && now.overlays == before.overlays).then_some(now)
}
