//! What is noted on the user's own machine, in `lakebed` below `XDG_STATE_HOME` or `~/.local/state`: the
//! ids of uploads that are under way, and which tables are being imported into.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::exit::Exit;

/// The database of a caller who names none.
const DATABASE_DEFAULT: &str = "default";

/// The notes on one database of one lake.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    /// Nowhere when the user has no home.
    folder: Option<PathBuf>,
    lake: String,
    database: String,
}

/// A table that no other import of this user and machine goes into, until this is dropped or the process
/// ends, however it does.
#[derive(Debug)]
pub(super) struct TableLock {
    _file: Option<File>,
}

impl Notes {
    pub(crate) fn new(lake: &str, database: Option<&str>) -> Self {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let state = from("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".local/state")));
        Notes {
            folder: state.map(|state| state.join("lakebed")),
            lake: lake.to_owned(),
            database: database.unwrap_or(DATABASE_DEFAULT).to_owned(),
        }
    }

    /// The file that notes the id of an upload: one for each table, file, size and time of change.
    pub(super) fn upload(&self, table: &str, file: &Path) -> io::Result<Option<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let metadata = std::fs::metadata(file)?;
        let whole = std::fs::canonicalize(file)?;
        let key = format!(
            "{} {} {table} {} {} {}.{}",
            self.lake,
            self.database,
            whole.display(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        Ok(Some(folder.join("uploads").join(hash(&key))))
    }

    /// Keeps other imports out of a table: two that compare with the same rows would add a file twice.
    ///
    /// # Errors
    /// Failure while another one is running.
    pub(super) fn lock(&self, table: &str) -> Result<TableLock, Exit> {
        let key = format!("{} {} {table}", self.lake, self.database);
        let open = || -> io::Result<Option<File>> {
            let Some(folder) = &self.folder else { return Ok(None) };
            let folder = folder.join("imports");
            std::fs::create_dir_all(&folder)?;
            // Never deleted: another process may have it open, and wait for nobody.
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(hash(&key)))
                .map(Some)
        };
        // A home that cannot be written to is no reason to stop.
        let file = open().unwrap_or(None);
        match file.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => Err(Exit::failed(format!(
                "another import into `{table}` is running; wait for it to end"
            ))),
            // Nor is a file system without locks.
            Some(Err(TryLockError::Error(_))) | Some(Ok(())) | None => {
                Ok(TableLock { _file: file })
            }
        }
    }
}

fn hash(key: &str) -> String {
    format!("{:016x}", xxh3_64(key.as_bytes()))
}
