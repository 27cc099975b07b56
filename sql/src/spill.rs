//! Where statements spill what does not fit into memory.
//!
//! Each process has a folder of its own, each statement one below it, which goes with the statement. A
//! process that was killed leaves its folder; the next one to start finds that nobody holds its lock and
//! deletes it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use lakebed_core::{Error, ErrorKind, Result};

const LOCK: &str = "lock";

/// The folder of one process.
#[derive(Debug)]
pub(crate) struct Spill {
    folder: PathBuf,
    bytes_max: u64,
    _lock: File,
}

impl Spill {
    /// Makes a folder below `parent` and deletes those of processes that are gone.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be made.
    pub(crate) fn open(parent: &Path, bytes_max: u64) -> Result<Spill> {
        Self::try_open(parent, bytes_max).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the folder for spilled rows cannot be made")
                .with_source(error)
        })
    }

    fn try_open(parent: &Path, bytes_max: u64) -> io::Result<Spill> {
        std::fs::create_dir_all(parent)?;
        for entry in std::fs::read_dir(parent)? {
            delete_if_left(&entry?.path());
        }
        let folder = parent.join(uuid::Uuid::now_v7().simple().to_string());
        std::fs::create_dir(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.lock()?;
        Ok(Spill { folder, bytes_max, _lock: lock })
    }

    /// The disk of one statement.
    pub(crate) fn disk(&self) -> DiskManagerBuilder {
        DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![self.folder.clone()]))
            .with_max_temp_directory_size(self.bytes_max)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::info!(%error, "the folder for spilled rows could not be deleted");
        }
    }
}

/// Deletes a folder whose process is gone. One without a lock is being made at this moment, or is none
/// of ours.
fn delete_if_left(folder: &Path) {
    let Ok(lock) = File::open(folder.join(LOCK)) else { return };
    match lock.try_lock() {
        Ok(()) => {
            if let Err(error) = std::fs::remove_dir_all(folder) {
                tracing::info!(%error, "spilled rows of an earlier process could not be deleted");
            }
        }
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_at_the_next_start() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("left");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(LOCK), b"").unwrap();
        std::fs::write(left.join("rows"), b"x").unwrap();
        let first = Spill::open(parent.path(), 1).unwrap();
        assert!(!left.exists());
        let second = Spill::open(parent.path(), 1).unwrap();
        assert!(first.folder.exists() && second.folder.exists());
        let folder = first.folder.clone();
        drop(first);
        assert!(!folder.exists() && second.folder.exists());
    }
}
