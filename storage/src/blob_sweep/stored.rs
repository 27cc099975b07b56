//! What lies under `_blobs/`.

use std::collections::HashMap;
use std::path::{Path as FsPath, PathBuf};
use std::time::UNIX_EPOCH;

use futures::TryStreamExt as _;
use lakebed_core::{Error, Result};

use crate::blob_digest::BlobDigest;
use crate::lance_error::{from_io, from_object_store};
use crate::root::{BLOBS_FOLDER, Root};

/// A large blob as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredBlob {
    pub(super) bytes: u64,
    pub(super) modified_ms: i64,
}

/// A file that a killed process was writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HalfWritten {
    /// What it was to be.
    pub(super) digest: BlobDigest,
    pub(super) path: PathBuf,
    pub(super) stored: StoredBlob,
}

/// The large blobs of a lake, some hundred bytes of memory each, and what is half written beside them.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) blobs: HashMap<BlobDigest, StoredBlob>,
    /// In a local lake; in a bucket nobody sees what is half written.
    pub(super) half_written: Vec<HalfWritten>,
}

impl Stored {
    /// Lists them. Files that are neither are nobody's to delete, and are left out.
    pub(super) async fn list(root: &Root) -> Result<Stored> {
        if let Some(folder) = root.local() {
            let folder = folder.join(BLOBS_FOLDER).join("sha256");
            return tokio::task::spawn_blocking(move || Stored::list_folder(&folder))
                .await
                .map_err(|error| Error::internal("a task failed").with_source(error))?;
        }
        let mut stored = Stored::default();
        let mut found = root.store().list(Some(&root.path(&format!("{BLOBS_FOLDER}/sha256"))));
        let failed = |error| from_object_store(error, "listing of the blobs");
        while let Some(object) = found.try_next().await.map_err(failed)? {
            let name = object.location.filename().unwrap_or_default();
            if let Some(digest) = BlobDigest::parse(name) {
                let modified_ms = object.last_modified.timestamp_millis();
                stored.blobs.insert(digest, StoredBlob { bytes: object.size, modified_ms });
            }
        }
        Ok(stored)
    }

    fn list_folder(folder: &FsPath) -> Result<Stored> {
        let mut stored = Stored::default();
        for inside in entries(folder)? {
            if !inside.is_dir() {
                continue;
            }
            for path in entries(&inside)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let metadata = match std::fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_file() => metadata,
                    Ok(_) => continue,
                    // Deleted, or renamed, since the folder was read.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(from_io(error, "look at a blob")),
                };
                let modified =
                    metadata.modified().map_err(|error| from_io(error, "look at a blob"))?;
                let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                let it = StoredBlob {
                    bytes: metadata.len(),
                    modified_ms: i64::try_from(modified.as_millis()).unwrap_or(i64::MAX),
                };
                match name.split_once('#') {
                    None => {
                        if let Some(digest) = BlobDigest::parse(&name) {
                            stored.blobs.insert(digest, it);
                        }
                    }
                    Some((name, number)) => {
                        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                        if let Some(digest) = BlobDigest::parse(name)
                            && !number.is_empty()
                            && is_number
                        {
                            stored.half_written.push(HalfWritten { digest, path, stored: it });
                        }
                    }
                }
            }
        }
        Ok(stored)
    }
}

fn entries(folder: &FsPath) -> Result<Vec<PathBuf>> {
    let failed = |error| from_io(error, "list the blobs");
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    read.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}
