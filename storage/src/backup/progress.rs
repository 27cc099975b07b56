//! How far a backup is: counted by whoever copies, read by whoever wants to know.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counts of a backup or restore that runs. They only rise.
#[derive(Debug, Default)]
pub struct BackupProgress {
    tables: AtomicU64,
    tables_done: AtomicU64,
    files_copied: AtomicU64,
    bytes_copied: AtomicU64,
    files_kept: AtomicU64,
    versions_copied: AtomicU64,
    versions_kept: AtomicU64,
    records_written: AtomicU64,
}

/// The counts of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupCounts {
    /// Tables that are to be copied.
    pub tables: u64,
    /// Tables whose files are all there.
    pub tables_done: u64,
    /// Files of tables and blobs that were copied.
    pub files_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Files that were looked at and found there.
    pub files_kept: u64,
    /// Versions that were copied.
    pub versions_copied: u64,
    /// Versions that were there.
    pub versions_kept: u64,
    /// Small records that were written: tags, keys, catalogues.
    pub records_written: u64,
}

impl BackupProgress {
    /// How far it is.
    pub fn counts(&self) -> BackupCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BackupCounts {
            tables: read(&self.tables),
            tables_done: read(&self.tables_done),
            files_copied: read(&self.files_copied),
            bytes_copied: read(&self.bytes_copied),
            files_kept: read(&self.files_kept),
            versions_copied: read(&self.versions_copied),
            versions_kept: read(&self.versions_kept),
            records_written: read(&self.records_written),
        }
    }

    pub(super) fn planned(&self, tables: usize) {
        self.tables.fetch_add(tables as u64, Ordering::Relaxed);
    }

    pub(super) fn table_done(&self) {
        self.tables_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn copied(&self, bytes: u64) {
        self.files_copied.fetch_add(1, Ordering::Relaxed);
        self.bytes_copied.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn kept(&self) {
        self.files_kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn version_copied(&self) {
        self.versions_copied.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn versions_kept(&self, versions: usize) {
        self.versions_kept.fetch_add(versions as u64, Ordering::Relaxed);
    }

    pub(super) fn recorded(&self) {
        self.records_written.fetch_add(1, Ordering::Relaxed);
    }
}
