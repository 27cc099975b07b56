//! Carries out what the policy plans, one rewrite after the other.

use std::sync::Arc;
use std::time::Instant;

use lakebed_core::Result;
use lakebed_storage::{At, FoldRule, Folded, Pace, Profile, Table};
use tokio::sync::Mutex;

use crate::policy::{Rewrite, Targets, plan};

/// What a pass over one branch did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pass {
    /// What was planned, in the order of the fragments.
    pub planned: Vec<Rewrite>,
    /// Rewrites that were done.
    pub done: usize,
    /// Bytes that these read.
    pub bytes: u64,
    /// Rewrites that were given up because their rows changed meanwhile; a later pass plans anew.
    pub lost: usize,
    /// Rewrites that the budget left for a later pass.
    pub left: usize,
    /// Fragments that are gone.
    pub removed: usize,
    /// Fragments that took their place.
    pub added: usize,
    /// Fragments whose overlays were folded.
    pub folded: usize,
    /// Bytes of the columns that were written for it.
    pub folded_bytes: u64,
    /// The newest version after it.
    pub version: u64,
}

/// What a pass may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that it reads; the first rewrite is always done.
    pub bytes_max: u64,
    /// Whether it only says what it would do.
    pub is_dry_run: bool,
}

/// Folds overlays, then plans and rewrites on the newest version of a branch. Each rewrite holds `one`,
/// because the memory of one is stated and that of many would not be; in them and between two of them `pace`
/// rests.
///
/// # Errors
/// `NotFound` for an unknown branch, `Unavailable` when the store does not answer. What was rewritten
/// before stays.
pub async fn compact(
    table: &Arc<Table>,
    branch: Option<&str>,
    targets: &Targets,
    budget: Budget,
    one: &Mutex<()>,
    pace: &Pace,
) -> Result<Pass> {
    let folded = match budget.is_dry_run {
        true => Folded::default(),
        false => fold(table, branch, one, pace).await?,
    };
    let layout = table.snapshot(branch, &At::Latest).await?.layout().await?;
    let planned = plan(&layout, targets);
    let mut pass = Pass {
        version: layout.version,
        planned,
        folded: folded.fragments,
        folded_bytes: folded.bytes,
        ..Pass::default()
    };
    if budget.is_dry_run {
        return Ok(pass);
    }
    let mut bytes = 0_u64;
    for rewrite in &pass.planned {
        bytes = bytes.saturating_add(rewrite.bytes);
        if bytes > budget.bytes_max && pass.done + pass.lost > 0 {
            pass.left += 1;
            continue;
        }
        let alone = one.lock().await;
        let mut turn = pace.turn();
        let fragments = &rewrite.fragments;
        let outcome = table.rewrite_fragments(branch, fragments, rewrite.bytes, &mut turn).await?;
        drop(alone);
        turn.rest().await;
        match outcome {
            Some(compacted) => {
                pass.done += 1;
                pass.bytes = pass.bytes.saturating_add(rewrite.bytes);
                pass.removed += compacted.removed;
                pass.added += compacted.added;
                pass.version = compacted.version;
            }
            None => pass.lost += 1,
        }
    }
    Ok(pass)
}

/// Writes columns anew that have many overlays; all that have any, where the table is to be open.
async fn fold(
    table: &Arc<Table>,
    branch: Option<&str>,
    one: &Mutex<()>,
    pace: &Pace,
) -> Result<Folded> {
    let snapshot = table.snapshot(branch, &At::Latest).await?;
    if snapshot.overlaid_fragments().is_empty() {
        return Ok(Folded::default());
    }
    let rule = match snapshot.chosen_profile() {
        Profile::Open => FoldRule::All,
        Profile::Extended => FoldRule::Due,
    };
    let alone = one.lock().await;
    let began = Instant::now();
    let folded = table.fold_overlays(branch, rule).await?;
    drop(alone);
    pace.rest(began.elapsed()).await;
    Ok(folded)
}
