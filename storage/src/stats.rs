//! Sizes of a version, from its manifest: nothing of the data is read.

use lakebed_core::Result;
use lance::index::DatasetIndexExt;
use lance_table::system_index::is_system_index;

use crate::lance_error::from_lance;
use crate::snapshot::Snapshot;

/// A fragment with fewer rows counts as small, as LanceDB counts.
const SMALL_FRAGMENT_ROWS: u64 = 100_000;

/// Sizes of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableStats {
    /// Bytes of the data files whose size the manifest knows; large blobs lie outside of them.
    pub bytes: u64,
    /// Rows, deleted ones not counted.
    pub rows: u64,
    /// Rows that are deleted and still take space.
    pub deleted_rows: u64,
    /// Indexes that users made.
    pub indices: u64,
    /// The rows of each fragment, deleted ones included, ascending.
    pub fragment_rows: Vec<u64>,
}

impl TableStats {
    /// Fragments with fewer than 100,000 rows.
    pub fn small_fragments(&self) -> usize {
        self.fragment_rows.iter().filter(|rows| **rows < SMALL_FRAGMENT_ROWS).count()
    }

    /// The rows of the fragment at a percentile, 0 without fragments.
    pub fn percentile(&self, percent: usize) -> u64 {
        let at = self.fragment_rows.len().saturating_mul(percent) / 100;
        self.fragment_rows.get(at).copied().unwrap_or(0)
    }
}

impl Snapshot {
    /// Sizes of the version.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn stats(&self) -> Result<TableStats> {
        let rows = self.count_rows().await?;
        let mut fragment_rows: Vec<u64> = Vec::new();
        let mut bytes = 0_u64;
        for fragment in self.dataset.fragments().iter() {
            fragment_rows.push(fragment.physical_rows.unwrap_or(0) as u64);
            let files = fragment.referenced_lance_files();
            let sizes = files.filter_map(|file| file.file_size_bytes.get());
            bytes = sizes.fold(bytes, |sum, size| sum.saturating_add(u64::from(size)));
        }
        fragment_rows.sort_unstable();
        let indices = self.dataset.load_indices().await.map_err(from_lance)?;
        let mut names: Vec<&str> = indices
            .iter()
            .filter(|index| !is_system_index(index))
            .map(|index| index.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let deleted_rows = fragment_rows.iter().sum::<u64>().saturating_sub(rows);
        Ok(TableStats { bytes, rows, deleted_rows, indices: names.len() as u64, fragment_rows })
    }

    /// How many fragments the version has.
    pub fn fragments(&self) -> u64 {
        self.dataset.fragments().len() as u64
    }

    /// The rows of the version that are deleted and still take space, where the manifest knows.
    pub fn deleted_rows(&self) -> u64 {
        let deleted = self.dataset.fragments().iter().filter_map(|fragment| {
            fragment.deletion_file.as_ref().and_then(|file| file.num_deleted_rows)
        });
        deleted.sum::<usize>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_fragments() {
        let stats =
            TableStats { fragment_rows: vec![1, 2, 300_000, 400_000], ..Default::default() };
        let percentiles = [25, 50, 75, 99].map(|percent| stats.percentile(percent));
        assert_eq!(percentiles, [2, 300_000, 400_000, 400_000]);
        assert_eq!(stats.small_fragments(), 2);
        assert_eq!(TableStats::default().percentile(50), 0);
    }
}
