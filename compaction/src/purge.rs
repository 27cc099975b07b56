//! Purging: after rows were deleted, their bytes go, too.
//!
//! ```text
//!   who keeps old versions? ─► nobody ─► fragments rewritten ─► indexes built anew ─► older versions,
//!            │                                                     all that only they name, orphans
//!            └► refused, nothing done                                        │
//!                                                     large blobs that nothing refers to ◄┘
//! ```
//!
//! Cut off anywhere, it has done no harm, and running it again goes on where it was.

use std::sync::Arc;

use lakebed_core::{Error, ErrorKind, Limits, Result};
use lakebed_storage::{Cleaned, FragmentStats, KeptBlob, Lake, Pace, PurgePlan, SweptBlobs, Table};

use crate::blobs::claims_before_ms;
use crate::policy::Targets;
use crate::retention::Retention;

/// Times that what changed meanwhile is looked for again.
const ROUNDS_MAX: u32 = 10;

/// What a purge did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// The newest version, before which all are gone.
    pub version: u64,
    /// Fragments that were rewritten.
    pub fragments: u64,
    /// Indexes that were built anew, by their names.
    pub indexes: Vec<String>,
    /// Old versions, and files.
    pub cleaned: Cleaned,
    /// Large blobs of the lake that nothing referred to.
    pub blobs: SweptBlobs,
    /// Large blobs of deleted rows that stay.
    pub blobs_kept: Vec<KeptBlob>,
}

/// What a purge of a branch would do.
///
/// # Errors
/// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
pub async fn plan_purge(table: &Arc<Table>, branch: Option<&str>) -> Result<PurgePlan> {
    table.purge_plan(branch).await
}

/// Purges a branch.
///
/// # Errors
/// `Conflict` naming what keeps old versions: tags, cursors and branches before anything is done, readers
/// when all else is; `Busy` while a backup is under way.
pub async fn purge(
    lake: &Arc<Lake>,
    table: &Arc<Table>,
    branch: Option<&str>,
    limits: &Limits,
    now_ms: i64,
) -> Result<Purged> {
    if lake.is_being_copied() {
        let message = "a backup is under way, and nothing is deleted until it is done";
        return Err(Error::new(ErrorKind::Busy, message).with_retry_after_ms(60_000));
    }
    table.finish_branch_deletions(Some(i64::MAX)).await?;
    let plan = table.purge_plan(branch).await?;
    if !plan.held_by.is_empty() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "older versions are kept: {}; nothing was done, delete these first",
                plan.held_by.join("; ")
            ),
        ));
    }
    let named = lake.blobs_named_by(table).await?;
    let mut purged = Purged::default();
    // What is deleted from here on is the next purge's, or this one might never end.
    for round in 0..=ROUNDS_MAX {
        let left = table.fragments_with(branch, &plan.files).await?;
        if left.is_empty() {
            break;
        }
        if round == ROUNDS_MAX {
            return Err(Error::new(
                ErrorKind::Conflict,
                "rows are changed all the time that are to be rewritten; purge again later",
            ));
        }
        purged.fragments += rewrite(table, branch, &left).await?;
    }
    let (since, stale) = table.stale_indexes(branch).await?;
    for index in &stale {
        build_anew(table, branch, index).await?;
        purged.indexes.push(index.clone());
    }
    purged.version = table.settle(branch).await?;
    table.note_renewed(branch, since, purged.version).await?;
    let orphan_age_ms = Retention::of(table, limits).await?.orphan_age_ms;
    let orphans_before_ms = now_ms.saturating_sub(i64::try_from(orphan_age_ms).unwrap_or(i64::MAX));
    purged.cleaned = table.clean_before(branch, purged.version, orphans_before_ms).await?;
    let claims_before_ms = claims_before_ms(limits, now_ms);
    table.finish_branch_deletions(Some(i64::MAX)).await?;
    let unfinished = table.unfinished_branches().await;
    let (blobs, kept) = lake.purge_blobs(table, &named, claims_before_ms).await?;
    (purged.blobs, purged.blobs_kept) = (blobs, kept);
    match purged.cleaned.kept.is_empty() && unfinished.is_empty() {
        true => Ok(purged),
        false => Err(held(&purged, &unfinished)),
    }
}

/// Builds an index anew, unless it is dropped meanwhile.
async fn build_anew(table: &Arc<Table>, branch: Option<&str>, index: &str) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        if table.renew_index(branch, index).await?.is_some() {
            return Ok(());
        }
        let (_, stale) = table.stale_indexes(branch).await?;
        if !stale.contains(index) {
            return Ok(());
        }
    }
    let message = format!("rows of index `{index}` are rewritten all the time; purge again later");
    Err(Error::new(ErrorKind::Conflict, message))
}

/// Rewrites fragments, those beside each other together as far as one is not larger than it should be.
async fn rewrite(
    table: &Arc<Table>,
    branch: Option<&str>,
    fragments: &[FragmentStats],
) -> Result<u64> {
    let mut done = 0;
    for group in groups(fragments, &Targets::default()) {
        let ids: Vec<u32> = group.iter().map(|fragment| fragment.id).collect();
        let bytes = group.iter().fold(0_u64, |sum, it| sum.saturating_add(it.bytes));
        let mut turn = Pace::at_once().turn();
        if let Some(compacted) = table.rewrite_fragments(branch, &ids, bytes, &mut turn).await? {
            done += compacted.removed as u64;
        }
    }
    Ok(done)
}

fn groups<'a>(fragments: &'a [FragmentStats], targets: &Targets) -> Vec<Vec<&'a FragmentStats>> {
    let mut groups: Vec<Vec<&FragmentStats>> = Vec::new();
    for fragment in fragments {
        let fits = groups.last().is_some_and(|group| {
            let rows: u64 = group.iter().map(|it| it.rows).sum();
            let bytes = group.iter().fold(0_u64, |sum, it| sum.saturating_add(it.bytes));
            group.iter().all(|it| it.indexes == fragment.indexes)
                && group.last().is_some_and(|last| last.id + 1 == fragment.id)
                && rows.saturating_add(fragment.rows) <= targets.rows
                && bytes.saturating_add(fragment.bytes) <= targets.bytes
        });
        match groups.last_mut() {
            Some(group) if fits => group.push(fragment),
            _ => groups.push(vec![fragment]),
        }
    }
    groups
}

fn held(purged: &Purged, unfinished: &[String]) -> Error {
    let versions = purged.cleaned.kept.iter();
    let versions = versions.map(|(version, by)| format!("version {version} by {by}"));
    let branches = unfinished.iter();
    let branches = branches.map(|name| format!("branch `{name}`, which was deleted, by a reader"));
    let kept: Vec<String> = versions.chain(branches).collect();
    let message = format!(
        "older versions are still in use: {}; all else is done, purge again when they are not",
        kept.join("; ")
    );
    Error::new(ErrorKind::Conflict, message).with_retry_after_ms(60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(id: u32, rows: u64, indexes: &[usize]) -> FragmentStats {
        FragmentStats { id, rows, deleted_rows: 1, bytes: rows, indexes: indexes.to_vec() }
    }

    #[test]
    fn fragments_beside_each_other_are_rewritten_together() {
        let targets = Targets { rows: 10, bytes: 100, ..Targets::default() };
        let ids = |fragments: &[FragmentStats]| -> Vec<Vec<u32>> {
            let groups = groups(fragments, &targets);
            groups.iter().map(|group| group.iter().map(|it| it.id).collect()).collect()
        };
        assert_eq!(ids(&[]), Vec::<Vec<u32>>::new());
        let some = [fragment(1, 4, &[]), fragment(2, 4, &[]), fragment(3, 4, &[])];
        assert_eq!(ids(&some), [vec![1, 2], vec![3]]);
        let gaps = [fragment(1, 1, &[]), fragment(3, 1, &[]), fragment(4, 1, &[0])];
        assert_eq!(ids(&gaps), [[1], [3], [4]]);
        let unknown = FragmentStats { bytes: u64::MAX, ..fragment(2, 1, &[]) };
        assert_eq!(ids(&[fragment(1, 1, &[]), unknown]), [[1], [2]]);
    }
}
