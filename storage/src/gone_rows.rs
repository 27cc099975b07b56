//! Rows that are gone while an index still names them.
//!
//! An index over stable row ids keeps the entries of a deleted row after a rewrite took the row out of its
//! file: the index covers the new fragment, which has no deletions. Lance 14.0.2 then masks nothing
//! (`DatasetPreFilter::create_deletion_mask_impl` asks for deletion files, and for fragments that an index
//! lacks or that are gone), the entry takes one of the places of the best rows, and as it can be fetched
//! nowhere, there are fewer rows than were asked for. So a search gets the mask that lance leaves out.
//!
//! ```text
//!   every fragment covered, none with deletions, fewer rows than ids were given ─► mask against the others
//!   anything else ─────────────────────────────────────────────────────────────► lance makes its own
//! ```
//!
//! Filters and plain scans need none: they read rows by where they lie.

use std::sync::{Arc, Mutex, PoisonError};

use async_recursion::async_recursion as boxed;
use lakebed_core::{Error, Result};
use lance::dataset::rowids::load_row_id_sequence;
use lance::index::DatasetIndexExt as _;
use lance_select::{RowAddrMask, RowAddrTreeMap};
use lance_table::system_index::is_system_index;
use roaring::RoaringBitmap;

use crate::lance_error::from_lance;
use crate::pins::PinnedVersion;
use crate::snapshot::Snapshot;

/// The mask of one version of a table, the last that was searched.
#[derive(Debug, Default)]
pub(crate) struct GoneRows(Mutex<Option<Known>>);

#[derive(Debug, Clone)]
struct Known {
    version: PinnedVersion,
    /// Tells the version from that of a branch which had the same name before.
    committed_nanos: u128,
    mask: Arc<RowAddrMask>,
}

impl Snapshot {
    /// A mask that selects every row of the version and none that is gone, where an index may name some of
    /// these and lance does not mask them; nothing where there is no need of it.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` when indexes or row ids cannot be read.
    #[boxed]
    pub(crate) async fn mask_of_gone_rows(&self) -> Result<Option<Arc<RowAddrMask>>> {
        let manifest = self.dataset.manifest();
        let fragments = &manifest.fragments;
        if !manifest.uses_stable_row_ids()
            || fragments.iter().any(|fragment| fragment.deletion_file.is_some())
        {
            return Ok(None);
        }
        let rows = fragments.iter().filter_map(|fragment| fragment.physical_rows);
        let rows = rows.fold(0, |sum: u64, rows| sum.saturating_add(rows as u64));
        let ids = manifest.next_row_id;
        if rows >= ids || !self.is_indexed_everywhere().await? {
            return Ok(None);
        }
        let (version, committed_nanos) = (self.pinned(), manifest.timestamp_nanos);
        let slot = &self.table().gone_rows.0;
        if let Some(known) = &*slot.lock().unwrap_or_else(PoisonError::into_inner)
            && known.version == *version
            && known.committed_nanos == committed_nanos
        {
            return Ok(Some(Arc::clone(&known.mask)));
        }
        let mut lists = Vec::new();
        for fragment in fragments.iter() {
            let list = load_row_id_sequence(&self.dataset, fragment);
            lists.push(list.await.map_err(from_lance)?);
        }
        let mask = tokio::task::spawn_blocking(move || {
            let mut there = RowAddrTreeMap::new();
            for list in lists {
                there |= RowAddrTreeMap::from(list.as_ref());
            }
            mask_of(there, rows, ids)
        })
        .await
        .map_err(|error| Error::internal("the rows that are gone").with_source(error))?;
        let mask = Arc::new(mask);
        let known = Known { version: version.clone(), committed_nanos, mask: Arc::clone(&mask) };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(Some(mask))
    }

    /// Whether each fragment is covered by some index.
    async fn is_indexed_everywhere(&self) -> Result<bool> {
        let indices = self.dataset.load_indices().await.map_err(from_lance)?;
        let mut covered = RoaringBitmap::new();
        for index in indices.iter().filter(|index| !is_system_index(index)) {
            match &index.fragment_bitmap {
                Some(bitmap) => covered |= bitmap,
                // Older ones do not say; lance takes it that they cover all.
                None => return Ok(true),
            }
        }
        let ids = self.dataset.fragments().iter().map(|fragment| u32::try_from(fragment.id));
        Ok(ids.into_iter().all(|id| id.is_ok_and(|id| covered.contains(id))))
    }
}

/// The smaller of the two masks that say the same: of `rows` that are there, or of those of `ids` that are
/// not.
fn mask_of(there: RowAddrTreeMap, rows: u64, ids: u64) -> RowAddrMask {
    if rows < ids - rows {
        return RowAddrMask::from_allowed(there);
    }
    let mut gone = RowAddrTreeMap::new();
    gone.insert_range(0..ids);
    RowAddrMask::from_block(gone - there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_masks_select_what_is_there() {
        for (there, ids) in
            [(vec![1, 3], 4), (vec![0, 1, 2, 5, 6], 7), (vec![2, 900_000], 1_000_000)]
        {
            let list = RowAddrTreeMap::from_iter(there.iter().copied());
            let mask = mask_of(list, there.len() as u64, ids);
            let selected: Vec<u64> = (0..ids).filter(|id| mask.selected(*id)).collect();
            assert_eq!(selected, there);
        }
    }

    #[test]
    fn few_rows_of_very_many_ids_take_little() {
        let mask = mask_of(RowAddrTreeMap::from_iter([7_u64]), 1, u64::MAX);
        assert_eq!(mask.allow_list().map(|list| list.serialized_size() < 1_000), Some(true));
    }
}
