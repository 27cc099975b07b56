//! What to rewrite: decided from the statistics of fragments alone.
//!
//! A fragment has a weight: its share of the rows or of the bytes that a fragment should have, whichever
//! is larger. Light fragments beside each other that indexes cover alike are joined, as long as that is
//! worth it:
//!
//! - Without blobs, once there are enough of them, or once they weigh half of a whole one together. The
//!   heaviest never weighs more than twice all others of its group together, so a row is written again
//!   only when its fragment grows by a half: a logarithmic number of times in its life.
//! - With blobs, once they weigh half of a whole one together, and what weighs a quarter is never touched
//!   again, whatever is deleted from it: a blob is written again once in its life at most. Fragments with
//!   deleted rows are left alone, because what is made of them could weigh too little.

use std::collections::HashSet;

use lakebed_storage::{FragmentStats, LayoutStats};

/// What fragments should be like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// Rows of a fragment.
    pub rows: u64,
    /// Bytes of a fragment, with its blobs.
    pub bytes: u64,
    /// Fragments without blobs that are worth joining, however light they are.
    pub fragments_min: usize,
    /// Above this share of deleted rows a fragment without blobs is rewritten.
    pub deleted_share_max: f64,
}

impl Default for Targets {
    fn default() -> Self {
        Targets { rows: 1 << 20, bytes: 512 << 20, fragments_min: 8, deleted_share_max: 0.1 }
    }
}

/// Why fragments are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// They are small.
    Small,
    /// Many of its rows are deleted.
    Deleted,
}

/// Fragments that should become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The fragments, beside each other.
    pub fragments: Vec<u32>,
    /// Why.
    pub reason: Reason,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The share of a group's weight that one of its fragments may have.
const HEAVIEST_SHARE_MAX: f64 = 2.0 / 3.0;
/// What a group weighs that is worth joining, however few they are.
const HALF: f64 = 0.5;
/// What weighs so much is left alone in a table with blobs: half of what a group weighs that is joined
/// there, because what is made of it may be smaller than the group.
const WHOLE_WITH_BLOBS: f64 = 0.25;

/// The rewrites that a version's layout asks for, in its order.
pub fn plan(layout: &LayoutStats, targets: &Targets) -> Vec<Rewrite> {
    let mut rewrites = Vec::new();
    for run in runs(layout, targets) {
        for group in groups(run, targets) {
            join(group, layout.has_blobs, targets, &mut rewrites);
        }
    }
    if !layout.has_blobs {
        let planned: HashSet<u32> =
            rewrites.iter().flat_map(|rewrite| rewrite.fragments.clone()).collect();
        let holed = layout.fragments.iter().filter(|fragment| {
            !planned.contains(&fragment.id)
                && fragment.bytes < u64::MAX
                && deleted_share(fragment) > targets.deleted_share_max
        });
        rewrites.extend(holed.map(|fragment| rewrite(&[fragment], Reason::Deleted)));
        rewrites.sort_by_key(|rewrite| rewrite.fragments.first().copied());
    }
    rewrites
}

fn weight(fragment: &FragmentStats, targets: &Targets) -> f64 {
    let rows = fragment.rows as f64 / targets.rows.max(1) as f64;
    let bytes = fragment.bytes as f64 / targets.bytes.max(1) as f64;
    rows.max(bytes)
}

fn weight_of(group: &[&FragmentStats], targets: &Targets) -> f64 {
    let rows: u64 = group.iter().map(|fragment| fragment.rows).sum();
    let bytes = group.iter().fold(0_u64, |sum, fragment| sum.saturating_add(fragment.bytes));
    (rows as f64 / targets.rows.max(1) as f64).max(bytes as f64 / targets.bytes.max(1) as f64)
}

fn deleted_share(fragment: &FragmentStats) -> f64 {
    let physical = fragment.rows.saturating_add(fragment.deleted_rows);
    fragment.deleted_rows as f64 / physical.max(1) as f64
}

/// Light fragments beside each other that indexes cover alike.
fn runs<'a>(layout: &'a LayoutStats, targets: &Targets) -> Vec<Vec<&'a FragmentStats>> {
    let whole = if layout.has_blobs { WHOLE_WITH_BLOBS } else { 1.0 };
    let mut runs: Vec<Vec<&FragmentStats>> = vec![Vec::new()];
    for fragment in &layout.fragments {
        let last = runs.last().and_then(|run| run.last());
        let is_light =
            weight(fragment, targets) < whole && !(layout.has_blobs && fragment.deleted_rows > 0);
        if !is_light || last.is_some_and(|last| last.indexes != fragment.indexes) {
            runs.push(Vec::new());
        }
        if is_light && let Some(run) = runs.last_mut() {
            run.push(fragment);
        }
    }
    runs
}

/// Cuts a run into groups that fit into a fragment.
fn groups<'a>(run: Vec<&'a FragmentStats>, targets: &Targets) -> Vec<Vec<&'a FragmentStats>> {
    let mut groups: Vec<Vec<&FragmentStats>> = Vec::new();
    for fragment in run {
        match groups.last_mut() {
            Some(group) => {
                group.push(fragment);
                if weight_of(group, targets) > 1.0 {
                    group.pop();
                    groups.push(vec![fragment]);
                }
            }
            None => groups.push(vec![fragment]),
        }
    }
    groups
}

fn join(
    group: Vec<&FragmentStats>,
    has_blobs: bool,
    targets: &Targets,
    rewrites: &mut Vec<Rewrite>,
) {
    if group.len() < 2 {
        return;
    }
    let total = weight_of(&group, targets);
    if has_blobs {
        if total >= HALF {
            rewrites.push(rewrite(&group, Reason::Small));
        }
        return;
    }
    let heaviest = group
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| weight(a, targets).total_cmp(&weight(b, targets)));
    let Some((at, heaviest)) = heaviest else { return };
    if weight(heaviest, targets) > total * HEAVIEST_SHARE_MAX {
        // It would be written again for little; what lies before and behind it may still be joined.
        join(group[..at].to_vec(), has_blobs, targets, rewrites);
        join(group[at + 1..].to_vec(), has_blobs, targets, rewrites);
    } else if group.len() >= targets.fragments_min || total >= HALF {
        rewrites.push(rewrite(&group, Reason::Small));
    }
}

fn rewrite(group: &[&FragmentStats], reason: Reason) -> Rewrite {
    Rewrite {
        fragments: group.iter().map(|fragment| fragment.id).collect(),
        reason,
        rows: group.iter().map(|fragment| fragment.rows).sum(),
        bytes: group.iter().fold(0, |sum, fragment| sum.saturating_add(fragment.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(rows: &[u64]) -> LayoutStats {
        let fragments = (0..).zip(rows).map(|(id, rows)| FragmentStats {
            id,
            rows: *rows,
            deleted_rows: 0,
            bytes: rows * 100,
            indexes: Vec::new(),
        });
        LayoutStats { version: 1, fragments: fragments.collect(), has_blobs: false }
    }

    fn planned(layout: &LayoutStats) -> Vec<Vec<u32>> {
        plan(layout, &TARGETS).into_iter().map(|rewrite| rewrite.fragments).collect()
    }

    const TARGETS: Targets =
        Targets { rows: 1_000, bytes: 100_000, fragments_min: 4, deleted_share_max: 0.1 };

    #[test]
    fn few_small_fragments_are_left_alone() {
        assert_eq!(planned(&layout(&[])), Vec::<Vec<u32>>::new());
        assert_eq!(planned(&layout(&[10])), Vec::<Vec<u32>>::new());
        assert_eq!(planned(&layout(&[10, 10, 10])), Vec::<Vec<u32>>::new());
        assert_eq!(planned(&layout(&[10, 10, 10, 10])), [[0, 1, 2, 3]]);
    }

    #[test]
    fn whole_fragments_end_a_run_and_groups_fit() {
        assert_eq!(planned(&layout(&[1_000, 300, 400, 1_500, 300, 400])), [[1, 2], [4, 5]]);
        // 400 + 400 fit; a third does not.
        assert_eq!(planned(&layout(&[400, 400, 400, 400])), [[0, 1], [2, 3]]);
    }

    #[test]
    fn a_heavy_one_is_not_written_again_for_a_few_light_ones() {
        assert_eq!(planned(&layout(&[300, 1, 1, 1])), Vec::<Vec<u32>>::new());
        assert_eq!(planned(&layout(&[300, 1, 1, 1, 1])), [[1, 2, 3, 4]]);
        assert_eq!(planned(&layout(&[1, 1, 1, 1, 300, 2, 2, 2, 2])), [[0, 1, 2, 3], [5, 6, 7, 8]]);
    }

    #[test]
    fn a_row_is_written_again_a_logarithmic_number_of_times() {
        // One row at a time, compacted after each, until a fragment is whole.
        let mut rows: Vec<u64> = Vec::new();
        let mut written = 0;
        for _ in 0..1_000 {
            rows.extend([1]);
            while let Some(rewrite) = plan(&layout(&rows), &TARGETS).into_iter().next() {
                let ids = &rewrite.fragments;
                let (first, last) = (ids[0] as usize, *ids.last().unwrap() as usize);
                written += rewrite.rows;
                rows.splice(first..=last, [rewrite.rows]);
            }
        }
        assert_eq!(rows.iter().sum::<u64>(), 1_000);
        assert!(rows.len() < 24, "{rows:?}");
        assert!(written <= 1_000 * 10, "each row was written {} times", written / 1_000);
    }

    #[test]
    fn indexes_keep_fragments_apart() {
        let mut layout = layout(&[10; 8]);
        for fragment in &mut layout.fragments[..4] {
            fragment.indexes = vec![0];
        }
        assert_eq!(planned(&layout), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        layout.fragments[4].indexes = vec![0, 1];
        assert_eq!(planned(&layout), [[0, 1, 2, 3]]);
    }

    #[test]
    fn deletions_start_a_rewrite_but_not_beside_blobs() {
        let mut layout = layout(&[1_500, 10]);
        layout.fragments[0].deleted_rows = 200;
        let [rewrite] = plan(&layout, &TARGETS).try_into().unwrap();
        assert_eq!(
            (rewrite.fragments.as_slice(), rewrite.reason),
            ([0].as_slice(), Reason::Deleted)
        );
        layout.fragments[0].deleted_rows = 100;
        assert!(plan(&layout, &TARGETS).is_empty());
        layout.fragments[0].deleted_rows = 1_000;
        layout.has_blobs = true;
        assert!(plan(&layout, &TARGETS).is_empty());
    }

    #[test]
    fn a_blob_is_written_again_once() {
        let mut layout = layout(&[10; 60]);
        layout.has_blobs = true;
        for fragment in &mut layout.fragments {
            fragment.bytes = 1_500;
        }
        // 60 of 1.5 % weigh 90 %: one group. What it makes weighs more than a half.
        let [rewrite] = plan(&layout, &TARGETS).try_into().unwrap();
        assert_eq!(rewrite.fragments.len(), 60);
        layout.fragments.truncate(30);
        assert!(plan(&layout, &TARGETS).is_empty(), "45 % are not worth it yet");
        layout.fragments[0].bytes = 25_000;
        assert!(plan(&layout, &TARGETS).is_empty(), "what weighs a quarter is whole");
        layout.fragments[0].rows = 1;
        layout.fragments[0].deleted_rows = 9;
        assert!(plan(&layout, &TARGETS).is_empty(), "whatever is deleted from it");
    }

    #[test]
    fn fragments_of_unknown_size_are_left_alone() {
        let mut layout = layout(&[10; 9]);
        layout.fragments[4].bytes = u64::MAX;
        layout.fragments[4].deleted_rows = 10;
        assert_eq!(planned(&layout), [vec![0, 1, 2, 3], vec![5, 6, 7, 8]]);
    }
}
