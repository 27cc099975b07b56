//! Copies objects from one root to another: several at once, a piece at a time.
//!
//! What always holds: an object has its name in the target only once it is complete; a local file is
//! synced before it gets its name, and [`Copier::sync_folders`] syncs the names. What is held in memory
//! is bounded by [`MEMORY_MIB`], however large an object is. A passing error of a store makes one object
//! start again, [`ATTEMPTS`] times; a full disk does not pass by itself and is told at once.

use std::collections::BTreeSet;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

use super::progress::BackupProgress;
use crate::blob::hex;
use crate::durable::{create_folder_durably, sync_file};
use crate::lance_error::{from_io, from_object_store};
use crate::root::Root;
use crate::system::staged;

/// Objects that are copied at once.
pub(super) const COPIES: usize = 8;
/// Bytes of one piece of an object.
const PIECE_BYTES: u64 = 4 << 20;
/// Bytes of one part of a large object in a bucket, unless it would have too many.
const PART_BYTES: u64 = 8 << 20;
/// A bucket takes 10,000 parts.
const PARTS_MAX: u64 = 9_000;
/// What all copies together may hold.
const MEMORY_MIB: u32 = 128;
/// How often an object is begun.
const ATTEMPTS: u32 = 8;
/// The wait before the second attempt; it doubles up to the last, so that a store may be away for a
/// minute.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// One object to be copied.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) from: Path,
    pub(super) to: Path,
    pub(super) size: u64,
    /// What its bytes have to hash to, where that is known.
    pub(super) sha256: Option<String>,
}

/// Copies from one root to another.
#[derive(Debug)]
pub(super) struct Copier<'a> {
    from: &'a Root,
    to: &'a Root,
    progress: &'a BackupProgress,
    /// Nothing is written, only counted.
    is_dry_run: bool,
    memory_mib: Semaphore,
    /// Local folders with names that are not synced yet.
    fresh: Mutex<BTreeSet<PathBuf>>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        from: &'a Root,
        to: &'a Root,
        progress: &'a BackupProgress,
        is_dry_run: bool,
    ) -> Self {
        let memory_mib = Semaphore::new(MEMORY_MIB as usize);
        Copier { from, to, progress, is_dry_run, memory_mib, fresh: Mutex::default() }
    }

    /// Copies an object.
    ///
    /// # Errors
    /// `NotFound` when it is not there any more, `Corrupt` when its bytes are not what they must be,
    /// `Unavailable` when a store does not answer or the disk is full.
    pub(super) async fn copy(&self, copy: Copy) -> Result<()> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            if self.is_dry_run {
                break;
            }
            match self.attempt(&copy).await {
                Ok(()) => break,
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    tracing::info!(path = %copy.from, error = %error.report(), "copied again");
                    tokio::time::sleep(wait).await;
                    wait = (2 * wait).min(WAIT_MAX);
                }
                Err(error) => return Err(error.context(format!("copy of `{}`", copy.from))),
            }
        }
        self.progress.copied(copy.size);
        Ok(())
    }

    async fn attempt(&self, copy: &Copy) -> Result<()> {
        let piece = match self.to.local() {
            Some(_) => PIECE_BYTES,
            None => PART_BYTES.max(copy.size.div_ceil(PARTS_MAX)),
        };
        let piece = piece.min(copy.size.max(1));
        // Twice: a piece is read and hashed while its copy is on its way.
        let mib = u32::try_from((2 * piece).div_ceil(1 << 20)).unwrap_or(MEMORY_MIB);
        let permit = self.memory_mib.acquire_many(mib.min(MEMORY_MIB)).await;
        let _permit = permit.map_err(|error| Error::internal("a semaphore").with_source(error))?;
        let mut sink = Sink::open(self, copy).await?;
        let written = self.write(copy, piece, &mut sink).await;
        match written {
            Ok(()) => sink.finish(self).await,
            Err(error) => {
                sink.give_up().await;
                Err(error)
            }
        }
    }

    async fn write(&self, copy: &Copy, piece: u64, sink: &mut Sink) -> Result<()> {
        let mut hasher = copy.sha256.as_ref().map(|_| Sha256::new());
        let mut at = 0;
        while at < copy.size {
            let next = (at + piece).min(copy.size);
            let bytes = self.from.store().get_range(&copy.from, at..next).await;
            let bytes = bytes.map_err(|error| from_object_store(error, "a read"))?;
            if bytes.len() as u64 != next - at {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("it ends before its {} bytes", copy.size),
                ));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&bytes);
            }
            sink.write(bytes).await?;
            at = next;
        }
        let digest = hasher.map(|hasher| hex(&hasher.finalize()));
        if digest != copy.sha256 {
            let what = "its bytes do not have the digest in its name";
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(())
    }

    /// Writes a small object, in the place of what is there.
    pub(super) async fn put(&self, to: &Path, bytes: Bytes) -> Result<()> {
        let mut wait = FIRST_WAIT;
        if !self.is_dry_run
            && let Some(target) = self.to.folder_of(to)?
        {
            // What a killed run left there; the store would write beside it, and nobody would take it away.
            let _ = tokio::fs::remove_file(staged(&target)).await;
        }
        for attempt in 1.. {
            if self.is_dry_run {
                break;
            }
            let put = self.to.store().put(to, bytes.clone().into()).await;
            match put.map_err(|error| from_object_store(error, &format!("write of `{to}`"))) {
                Ok(_) => break,
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    tokio::time::sleep(wait).await;
                    wait = (2 * wait).min(WAIT_MAX);
                }
                Err(error) => return Err(error),
            }
        }
        self.progress.recorded();
        Ok(())
    }

    /// Deletes an object of the target; one that is not there is fine.
    pub(super) async fn delete(&self, path: &Path) -> Result<()> {
        if self.is_dry_run {
            return Ok(());
        }
        match self.to.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(error, &format!("deletion of `{path}`"))),
        }
    }

    /// Makes the names of copied files last, on a local target.
    pub(super) async fn sync_folders(&self) -> Result<()> {
        let folders = {
            let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *fresh)
        };
        let synced = tokio::task::spawn_blocking(move || {
            // Deepest first: a name is only worth keeping once what it names is on disk.
            folders.iter().rev().try_for_each(|folder| sync_file(folder))
        });
        synced.await.map_err(|error| Error::internal("sync task failed").with_source(error))?
    }

    fn remember(&self, folder: &FsPath) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.insert(folder.to_path_buf());
    }
}

/// Whether the same may do better a moment later.
fn is_passing(error: &Error) -> bool {
    const LASTING: [&str; 4] =
        ["No space left", "Permission denied", "Read-only file system", "Quota exceeded"];
    let report = error.report();
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Busy)
        && !LASTING.iter().any(|lasting| report.contains(lasting))
}

/// Where an object's bytes go.
enum Sink {
    Local { file: File, staged: PathBuf, target: PathBuf },
    Small { to: Path, bytes: Bytes },
    Large { upload: Box<dyn MultipartUpload> },
}

impl Sink {
    async fn open(copier: &Copier<'_>, copy: &Copy) -> Result<Sink> {
        if let Some(target) = copier.to.folder_of(&copy.to)? {
            let folder = target.parent().map(FsPath::to_path_buf).unwrap_or_default();
            if !folder.is_dir() {
                let made = folder.clone();
                let made = tokio::task::spawn_blocking(move || create_folder_durably(&made));
                made.await
                    .map_err(|error| Error::internal("a task failed").with_source(error))??;
            }
            // What a killed run left there is written over.
            let staged = staged(&target);
            let file = File::create(&staged).await.map_err(|error| from_io(error, "a write"))?;
            return Ok(Sink::Local { file, staged, target });
        }
        if copy.size <= PART_BYTES {
            return Ok(Sink::Small { to: copy.to.clone(), bytes: Bytes::new() });
        }
        let upload = copier.to.store().put_multipart(&copy.to).await;
        let upload = upload.map_err(|error| from_object_store(error, "a write"))?;
        Ok(Sink::Large { upload })
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        match self {
            Sink::Local { file, .. } => {
                file.write_all(&piece).await.map_err(|error| from_io(error, "a write"))
            }
            // It is one piece.
            Sink::Small { bytes, .. } => {
                *bytes = piece;
                Ok(())
            }
            Sink::Large { upload } => upload
                .put_part(piece.into())
                .await
                .map_err(|error| from_object_store(error, "a write")),
        }
    }

    async fn finish(self, copier: &Copier<'_>) -> Result<()> {
        match self {
            Sink::Local { mut file, staged, target } => {
                let ended = async {
                    file.flush().await?;
                    file.sync_all().await?;
                    tokio::fs::rename(&staged, &target).await
                };
                if let Err(error) = ended.await {
                    let _ = tokio::fs::remove_file(&staged).await;
                    return Err(from_io(error, "a write"));
                }
                copier.remember(target.parent().unwrap_or(&target));
                Ok(())
            }
            Sink::Small { to, bytes } => {
                let put = copier.to.store().put(&to, bytes.into()).await;
                put.map(|_| ()).map_err(|error| from_object_store(error, "a write"))
            }
            Sink::Large { mut upload } => {
                let ended = upload.complete().await;
                ended.map(|_| ()).map_err(|error| from_object_store(error, "a write"))
            }
        }
    }

    /// Takes away what was written; what stays has no name that anyone reads.
    async fn give_up(self) {
        match self {
            Sink::Local { file, staged, .. } => {
                drop(file);
                let _ = tokio::fs::remove_file(&staged).await;
            }
            Sink::Small { .. } => {}
            Sink::Large { mut upload } => {
                let _ = upload.abort().await;
            }
        }
    }
}
