//! The place that a backup or restore writes to: what may be there, and what may not.

use std::fs::File;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use lakebed_core::{Error, ErrorKind, Result};

use super::listing::listing;
use super::record::{BACKUP_RECORD, BackupRecord, RUNNING_RECORD, RunningRecord, read, write};
use crate::durable::create_folder_durably;
use crate::lake::{LakeOptions, claim, open_root, read_record};
use crate::lance_error::from_io;
use crate::root::{BLOBS_FOLDER, Root, SYSTEM_FOLDER};
use crate::system::SystemStore;

/// A root that is written to, held against others where it is a local folder.
pub(super) struct Place {
    pub(super) root: Root,
    pub(super) system: SystemStore,
    /// The record of the backup that was there before.
    pub(super) before: Option<BackupRecord>,
    /// What a dry run looks at instead of a folder that is not there.
    _nothing: Option<tempfile::TempDir>,
    _lock: Option<File>,
}

/// What goes into a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Backup,
    Restore,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Backup => "backup",
            Kind::Restore => "restore",
        }
    }
}

impl Place {
    /// Opens the place and notes what is about to be written there.
    ///
    /// # Errors
    /// `InvalidArgument` for a place that lies in the source or the other way round, `AlreadyExists` for
    /// one that holds anything but an earlier or cut-off copy of the same lake, `Unavailable` for a newer
    /// format.
    pub(super) async fn open(
        options: &LakeOptions,
        source: &Root,
        lake_id: &str,
        kind: Kind,
        is_dry_run: bool,
    ) -> Result<Place> {
        check_apart(source, &options.root)?;
        let is_missing = !options.root.contains("://") && !Path::new(&options.root).is_dir();
        let nothing = match is_dry_run && is_missing {
            true => Some(tempfile::tempdir().map_err(|error| from_io(error, "make a folder"))?),
            false => None,
        };
        let (root, system) = match &nothing {
            Some(folder) => {
                let root = folder.path().to_string_lossy().into_owned();
                open_root(&LakeOptions { root, ..options.clone() })?
            }
            None => open_root(options)?,
        };
        let shown = options.root.as_str();
        let unread = match shown.contains("://") {
            true => format!("`{shown}` does not answer, or not to this process' credentials"),
            false => format!("`{shown}` cannot be read"),
        };
        system.get(RUNNING_RECORD).await.map_err(|error| error.context(unread))?;
        // A newer lake is not written into, whatever else is there.
        read_record(&system).await?;
        let running: Option<RunningRecord> = read(&system, RUNNING_RECORD).await?;
        let before: Option<BackupRecord> = read(&system, BACKUP_RECORD).await?;
        let other = |id: &str| {
            Error::new(
                ErrorKind::AlreadyExists,
                format!("`{shown}` holds a {} of another lake, {id}", kind.name()),
            )
        };
        match (&running, &before) {
            (Some(running), _) if running.kind != kind.name() => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("`{shown}` holds a {} that was cut off", running.kind),
                ));
            }
            (Some(running), _) if running.lake_id != lake_id => {
                return Err(other(&running.lake_id));
            }
            (Some(_), _) => {}
            (None, Some(before)) if kind == Kind::Backup && before.lake_id == lake_id => {}
            (None, Some(before)) if kind == Kind::Backup => return Err(other(&before.lake_id)),
            (None, Some(_)) => {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("`{shown}` is a backup")));
            }
            (None, None) => check_empty(&root, &system, shown, kind).await?,
        }
        let mut lock = None;
        if !is_dry_run {
            if let Some(folder) = root.local() {
                create_folder_durably(&folder.join(SYSTEM_FOLDER))?;
                create_folder_durably(&folder.join(BLOBS_FOLDER))?;
            }
            lock = claim(&root)?;
        }
        Ok(Place { root, system, before, _nothing: nothing, _lock: lock })
    }

    /// Notes that something is being written here, before anything is.
    pub(super) async fn begin(&self, running: &RunningRecord) -> Result<()> {
        write(&self.system, RUNNING_RECORD, running).await
    }

    /// Notes that all is there.
    pub(super) async fn end(&self) -> Result<()> {
        self.system.delete(RUNNING_RECORD).await
    }
}

async fn check_empty(root: &Root, system: &SystemStore, shown: &str, kind: Kind) -> Result<()> {
    if read_record(system).await?.is_some() {
        let why = match kind {
            Kind::Backup => {
                "holds a lake that is no backup, or one that was served since; choose another place"
            }
            Kind::Restore => {
                "holds a lake; name a table to restore into it, or choose another place"
            }
        };
        return Err(Error::new(ErrorKind::AlreadyExists, format!("`{shown}` {why}")));
    }
    let lock = format!("{SYSTEM_FOLDER}/lock");
    let mut found = listing(root, "");
    while let Some(object) = found.try_next().await? {
        if object.path != lock {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("`{shown}` is not empty: it holds `{}`", object.path),
            ));
        }
    }
    Ok(())
}

/// Refuses a place within the source, and a source within the place.
fn check_apart(source: &Root, place: &str) -> Result<()> {
    let (ours, theirs) = match source.local() {
        Some(folder) if !place.contains("://") => {
            (folder.to_path_buf(), real_path(Path::new(place))?)
        }
        None if place.contains("://") => (parts_of(source.uri()), parts_of(place)),
        _ => return Ok(()),
    };
    if ours.starts_with(&theirs) || theirs.starts_with(&ours) {
        return Err(Error::invalid(format!(
            "`{place}` and `{}` lie within each other; a copy needs a place of its own",
            source.uri()
        )));
    }
    Ok(())
}

/// A location in a bucket as a path, which is compared by its parts.
fn parts_of(uri: &str) -> PathBuf {
    PathBuf::from(uri.replacen("://", "/", 1).trim_end_matches('/'))
}

/// The path with links resolved as far as it exists.
fn real_path(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|error| from_io(error, "find a folder"))?;
    for above in path.ancestors() {
        if let Ok(real) = above.canonicalize() {
            let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
            return Ok(real.join(rest));
        }
    }
    Ok(path)
}
