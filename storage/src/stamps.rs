//! How much of a manifest the stamps of rows may take.
//!
//! Lance notes for each row the version that changed it last, in every manifest, some sixteen bytes for each
//! change that has no changed neighbour. A table whose labels are changed here and there by the million
//! would write megabytes of them with every cell that changes.
//!
//! So they are bounded. Beyond the bound old stamps are put up first: whatever was changed at a version or
//! before counts as changed at that version, as early as the bound allows. Who follows the table reads what
//! is new as exactly as before. Only where the newest changes alone are too many, blocks of rows count as
//! changed together.
//!
//! ```text
//!   of each row  3 3 7 3 5 3 3 9 3 3   as it was
//!                5 5 7 5 5 5 5 9 5 5   what is older than 5 put up
//!                9 9 9 9 5 5 5 9 9 9   in blocks
//! ```
//!
//! And a change of some cells does not carry the stamps of its fragments along in its transaction, of which
//! there are two copies: [`LeftOut`] takes them off before the commit, and gives them back in the manifest.
//!
//! What always holds: a row's stamp is a version at which the table had the row's present values, never
//! one before its last change. So the feed, which compares the values of rows with a new stamp (`diff.rs`),
//! finds every change and says none that was not. Which stamps may have been put up, the table's config says:
//! those up to [`PUT_UP_KEY`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lance::dataset::transaction::{Operation, Transaction, UpdateMode};
use lance_table::format::{Fragment, Manifest, RowDatasetVersionMeta};
use lance_table::rowids::segment::U64Segment;
use lance_table::rowids::version::{RowDatasetVersionRun, RowDatasetVersionSequence};

/// The key of the table's config that says up to which version stamps tell when a row changed only roughly.
const PUT_UP_KEY: &str = "lakebed.stamps_put_up_to";
/// What lance writes for a run at most: three numbers of up to four bytes, and what encloses them.
const RUN_BYTES: usize = 21;
/// Rows of the smallest block.
const BLOCK_ROWS: u64 = 64;

/// Neighbours with the same stamp: how many, and the stamp.
type Run = (u64, u64);

/// Puts stamps of a manifest up where all together take more than `bytes_max` beside one run for each
/// fragment, which it has to have.
pub(crate) fn bound_stamps(manifest: &mut Manifest, bytes_max: u64) {
    let sizes: Vec<usize> =
        manifest.fragments.iter().map(|it| size_of(it).saturating_sub(RUN_BYTES)).collect();
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    if sizes.iter().sum::<usize>() <= bytes_max {
        return;
    }
    let allowed = shares(&sizes, bytes_max);
    let mut newest = 0;
    let fragments: &mut Vec<Fragment> = Arc::make_mut(&mut manifest.fragments);
    for ((fragment, size), allowed) in fragments.iter_mut().zip(sizes).zip(allowed) {
        if size > allowed
            && let Some(stamps) = fragment.last_updated_at_version_meta.as_ref()
            && let Ok(sequence) = stamps.load_sequence()
            && let (runs, version) = fewer(runs_of(&sequence), allowed / RUN_BYTES + 1)
            && version > 0
            && let Ok(fewer) = of_runs(runs)
        {
            fragment.last_updated_at_version_meta = Some(fewer);
            newest = newest.max(version);
        }
    }
    if newest == 0 {
        return;
    }
    let put_up_to = newest.max(put_up_to(&manifest.config));
    manifest.config.insert(PUT_UP_KEY.to_owned(), put_up_to.to_string());
    manifest.writer_feature_flags |= lance_table::feature_flags::FLAG_TABLE_CONFIG;
}

/// The newest version that may be the stamp of a row that it did not change; 0 where there is none.
pub(crate) fn put_up_to(config: &HashMap<String, String>) -> u64 {
    config.get(PUT_UP_KEY).and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The stamp of a row in a transaction that leaves it as it is. No version has this number.
const AS_BEFORE: u64 = 0;
/// Stamps of a fragment that take less are left in their transaction.
const LEFT_OUT_BYTES_MIN: usize = 512;

/// Stamps that a transaction does not carry along.
#[derive(Debug)]
pub(crate) struct LeftOut {
    /// By the number of their fragment.
    stamps: HashMap<u64, RowDatasetVersionMeta>,
}

impl LeftOut {
    /// Takes the stamps of fragments of which some columns were written anew off their transaction, where
    /// they are still those of `fragments`, the version that it is committed on. Who commits it has to put
    /// them back.
    pub(crate) fn of(transaction: &mut Transaction, fragments: &[Fragment]) -> LeftOut {
        let mut left_out = LeftOut { stamps: HashMap::new() };
        let Operation::Update {
            updated_fragments,
            update_mode: Some(UpdateMode::RewriteColumns),
            updated_fragment_offsets: Some(_),
            ..
        } = &mut transaction.operation
        else {
            return left_out;
        };
        let known: HashMap<u64, &Fragment> = fragments.iter().map(|it| (it.id, it)).collect();
        for fragment in updated_fragments {
            let is_known = known.get(&fragment.id).is_some_and(|known| {
                known.last_updated_at_version_meta == fragment.last_updated_at_version_meta
            });
            if let Some(stamps) = &fragment.last_updated_at_version_meta
                && is_known
                && size_of(fragment) >= LEFT_OUT_BYTES_MIN
                && let Ok(sequence) = stamps.load_sequence()
                && fragment.physical_rows.is_some_and(|rows| rows as u64 == sequence.len())
                && let Ok(none) = of_runs([(sequence.len(), AS_BEFORE)])
            {
                left_out.stamps.insert(fragment.id, stamps.clone());
                fragment.last_updated_at_version_meta = Some(none);
            }
        }
        left_out
    }

    /// Gives the rows that the commit did not stamp the stamps that they had.
    ///
    /// # Errors
    /// When a fragment has other rows than it had.
    pub(crate) fn put_back(&self, manifest: &mut Manifest) -> lance::Result<()> {
        if self.stamps.is_empty() {
            return Ok(());
        }
        let fragments: &mut Vec<Fragment> = Arc::make_mut(&mut manifest.fragments);
        for fragment in fragments {
            if let Some(old) = self.stamps.get(&fragment.id)
                && let Some(new) = &fragment.last_updated_at_version_meta
            {
                let (old, new) = (runs_of(&old.load_sequence()?), runs_of(&new.load_sequence()?));
                let stamps = put_over(&old, &new)
                    .ok_or_else(|| lance::Error::internal("a changed fragment has other rows"))?;
                fragment.last_updated_at_version_meta = Some(of_runs(stamps)?);
            }
        }
        Ok(())
    }
}

fn runs_of(stamps: &RowDatasetVersionSequence) -> Vec<Run> {
    stamps.runs.iter().map(|run| (run.len() as u64, run.version())).collect()
}

fn of_runs(runs: impl IntoIterator<Item = Run>) -> lance::Result<RowDatasetVersionMeta> {
    let mut first = 0;
    let runs = runs.into_iter().map(|(rows, version)| {
        let span = U64Segment::Range(first..first + rows);
        first += rows;
        RowDatasetVersionRun { span, version }
    });
    RowDatasetVersionMeta::from_sequence(&RowDatasetVersionSequence { runs: runs.collect() })
}

/// The stamps of `new`, and where it leaves rows as they were those of `old`; nothing where they are not of
/// as many rows.
fn put_over(old: &[Run], new: &[Run]) -> Option<Vec<Run>> {
    let (mut old, mut new) = (old.iter().copied(), new.iter().copied());
    let (mut was, mut is) = ((0, 0), (0, 0));
    let mut stamps = Vec::new();
    loop {
        while was.0 == 0 {
            match old.next() {
                Some(next) => was = next,
                None => {
                    return (is.0 == 0 && new.all(|(rows, _)| rows == 0)).then(|| joined(stamps));
                }
            }
        }
        while is.0 == 0 {
            is = new.next()?;
        }
        let rows = was.0.min(is.0);
        stamps.push((rows, if is.1 == AS_BEFORE { was.1 } else { is.1 }));
        was.0 -= rows;
        is.0 -= rows;
    }
}

fn size_of(fragment: &Fragment) -> usize {
    match &fragment.last_updated_at_version_meta {
        Some(RowDatasetVersionMeta::Inline(bytes)) => bytes.len(),
        Some(RowDatasetVersionMeta::Column) | None => 0,
    }
}

/// How many bytes each may take: what it takes, or an equal share of what the smaller ones leave.
fn shares(sizes: &[usize], bytes_max: usize) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..sizes.len()).collect();
    by_size.sort_unstable_by_key(|at| sizes[*at]);
    let mut shares = vec![0; sizes.len()];
    let (mut left, mut others) = (bytes_max, sizes.len());
    for at in by_size {
        shares[at] = sizes[at].min(left / others);
        left -= shares[at];
        others -= 1;
    }
    shares
}

/// The stamps in at most so many runs, or in one; and the newest one that was given to other rows, 0 where
/// they fit as they are.
fn fewer(runs: Vec<Run>, runs_max: usize) -> (Vec<Run>, u64) {
    let (runs, runs_max) = (joined(runs), runs_max.max(1));
    if runs.len() <= runs_max {
        return (runs, 0);
    }
    let versions: BTreeSet<u64> = runs.iter().map(|(_, version)| *version).collect();
    let versions: Vec<u64> = versions.into_iter().collect();
    let put_up =
        |least: u64| joined(runs.iter().map(|(rows, version)| (*rows, (*version).max(least))));
    // The higher the least stamp, the fewer runs.
    let enough = versions.partition_point(|least| put_up(*least).len() > runs_max);
    // The newest one is told from the others for as long as that is possible.
    let least = versions[enough.min(versions.len().saturating_sub(2))];
    let newest = versions.last().copied().unwrap_or(least);
    let mut runs = put_up(least);
    if runs.len() <= runs_max {
        return (runs, least);
    }
    let rows: u64 = runs.iter().map(|(rows, _)| rows).sum();
    let mut block = BLOCK_ROWS;
    while runs.len() > runs_max {
        runs = match block < rows {
            true => in_blocks(&runs, block),
            false => vec![(rows, newest)],
        };
        block = block.saturating_mul(2);
    }
    (runs, newest)
}

/// Neighbours with the same stamp as one.
fn joined(runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for (rows, version) in runs.into_iter().filter(|(rows, _)| *rows > 0) {
        match joined.last_mut().filter(|last| last.1 == version) {
            Some(last) => last.0 += rows,
            None => joined.push((rows, version)),
        }
    }
    joined
}

/// Each block of rows with the newest of its stamps.
fn in_blocks(runs: &[Run], block: u64) -> Vec<Run> {
    let mut blocks: Vec<Run> = Vec::new();
    let (mut newest, mut filled) = (0, 0);
    for (rows, version) in runs {
        let mut rows = *rows;
        while rows > 0 {
            let taken = rows.min(block - filled);
            newest = newest.max(*version);
            filled += taken;
            rows -= taken;
            if filled == block {
                blocks.push((block, newest));
                (newest, filled) = (0, 0);
                // Whole blocks of one run at once.
                let whole = rows - rows % block;
                if whole > 0 {
                    blocks.push((whole, *version));
                    rows -= whole;
                }
            }
        }
    }
    blocks.push((filled, newest));
    joined(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(runs: &[Run]) -> Vec<u64> {
        runs.iter().flat_map(|(rows, stamp)| std::iter::repeat_n(*stamp, *rows as usize)).collect()
    }

    fn runs(stamps: &[u64]) -> Vec<Run> {
        joined(stamps.iter().map(|stamp| (1, *stamp)))
    }

    #[test]
    fn old_stamps_are_put_up_first() {
        let stamps = [3, 3, 7, 3, 5, 3, 3, 9, 3, 3];
        let in_runs = |runs_max| {
            let (found, put_up_to) = fewer(runs(&stamps), runs_max);
            (rows(&found), put_up_to)
        };
        assert_eq!(in_runs(9), (stamps.to_vec(), 0), "they fit");
        assert_eq!(
            in_runs(6),
            (vec![5, 5, 7, 5, 5, 5, 5, 9, 5, 5], 5),
            "two changes are as they were"
        );
        assert_eq!(in_runs(4), (vec![7, 7, 7, 7, 7, 7, 7, 9, 7, 7], 7));
        assert_eq!(in_runs(2), (vec![9; 10], 9));
        assert_eq!(in_runs(0), (vec![9; 10], 9));
        assert_eq!(fewer(vec![(10, 3)], 0), (vec![(10, 3)], 0), "one run is as few as can be");
    }

    #[test]
    fn blocks_have_the_newest_stamp_in_them() {
        let mut stamps = vec![1; 1_000];
        for at in (0..500).step_by(7) {
            stamps[at] = 2;
        }
        assert_eq!(fewer(runs(&stamps), 10), (vec![(512, 2), (488, 1)], 2));
        assert_eq!(in_blocks(&[(130, 1), (1, 2), (69, 1)], 64), [(128, 1), (64, 2), (8, 1)]);
    }

    #[test]
    fn whatever_the_stamps_none_is_lost_and_none_is_early() {
        let mut seed = 11_u64;
        let mut dice = |sides: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % sides
        };
        for _ in 0..500 {
            let (count, versions) = (1 + dice(3_000), 1 + dice(20));
            let mut stamps = Vec::new();
            while (stamps.len() as u64) < count {
                let version = 1 + dice(versions);
                let neighbours = 1 + if dice(3) == 0 { dice(200) } else { dice(3) };
                stamps.extend(std::iter::repeat_n(version, neighbours as usize));
            }
            let runs_max = dice(60) as usize;
            let (found, put_up_to) = fewer(runs(&stamps), runs_max);
            assert!(found.len() <= runs_max.max(1), "{} of {runs_max}", found.len());
            let new = rows(&found);
            assert_eq!(new.len(), stamps.len());
            assert!(new.iter().zip(&stamps).all(|(new, old)| new >= old));
            // Nothing changed a row between its own stamp and the new one: that is one of its fragment.
            assert!(new.iter().all(|stamp| stamps.contains(stamp)));
            let others = new.iter().zip(&stamps).filter(|(new, old)| new != old);
            assert!(others.map(|(new, _)| *new).max().unwrap_or(0) <= put_up_to);
        }
    }

    #[test]
    fn rows_that_were_not_stamped_have_what_they_had() {
        let old = [3, 3, 7, 3, 5, 5];
        let new = [AS_BEFORE, 9, AS_BEFORE, AS_BEFORE, AS_BEFORE, 9];
        let found = put_over(&runs(&old), &runs(&new));
        assert_eq!(rows(&found.unwrap()), [3, 9, 7, 3, 5, 9]);
        assert_eq!(put_over(&runs(&old), &[(6, AS_BEFORE)]).unwrap(), runs(&old));
        assert!(put_over(&runs(&old), &[(5, 9)]).is_none(), "a row is missing");
        assert!(put_over(&runs(&old), &[(7, 9)]).is_none(), "a row came from nowhere");
        assert_eq!(put_over(&[], &[]).unwrap(), []);
    }

    #[test]
    fn small_fragments_keep_theirs_and_large_ones_share() {
        assert_eq!(shares(&[10, 500, 20, 400], 230), [10, 100, 20, 100]);
        assert_eq!(shares(&[10, 20], 100), [10, 20]);
        assert_eq!(shares(&[50, 50, 50], 10), [3, 3, 4]);
        assert!(shares(&[], 10).is_empty());
    }
}
