//! The part of an upload on a local lake, which grows in place.
//!
//! ```text
//!   chunks ─► a piece of 8 MiB ─┬─► checksums
//!                               └─► the disk, past the page cache where that can be
//! ```
//!
//! One piece is gathered while the one before is hashed and written. A large blob is not read again soon:
//! in the page cache it would cost a copy and push out what is. Where a file system cannot write past the
//! cache, and for what does not begin or end at a sector, it goes through it, and is synced as it grows.
//!
//! The piece of a request that was dropped may still be written after it: that two clients mixed their
//! bytes shows in the checksum.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lakebed_core::{Error, Result};
use rustix::fs::{Advice, OFlags, fadvise};
use tokio::task::JoinHandle;

use crate::checksums::Hasher;

/// Bytes that are written at a time.
const PIECE_BYTES: usize = 8 << 20;
/// Where a write past the page cache may begin and end, in the file and in memory: the largest sector of
/// disks in use.
const ALIGNMENT: usize = 4 << 10;
/// Bytes in the page cache that are synced at a time.
const SYNC_BYTES: u64 = 64 << 20;

/// An upload's part while bytes are added to it.
pub(crate) struct GrowingPart {
    file: Arc<File>,
    /// The same file past the page cache.
    direct: Option<Arc<File>>,
    folder: PathBuf,
    piece: Piece,
    /// A piece to gather in next, so that memory is used again.
    spare: Option<Piece>,
    /// Where the next piece goes.
    at: u64,
    /// Up to where it is synced, or is being synced.
    synced: u64,
    /// What was handed to the disk, where that is hashed; it is out while a piece is written.
    hasher: Option<Hasher>,
    writing: Option<Writing>,
    syncing: Option<JoinHandle<std::io::Result<()>>>,
}

/// A piece under way.
struct Writing {
    written: JoinHandle<std::io::Result<()>>,
    hashed: Option<JoinHandle<Hasher>>,
    piece: Arc<Piece>,
}

/// Memory that begins where a write past the page cache may.
struct Piece {
    memory: Vec<u8>,
    begin: usize,
    size: usize,
}

impl Piece {
    fn new() -> Self {
        let memory = vec![0; PIECE_BYTES + ALIGNMENT];
        let begin = match memory.as_ptr().align_offset(ALIGNMENT) {
            begin if begin < ALIGNMENT => begin,
            _ => 0,
        };
        Piece { memory, begin, size: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.size]
    }

    /// Takes as much of `chunk` as there is room for below `limit` bytes.
    fn fill(&mut self, chunk: &mut Bytes, limit: usize) {
        let taken = chunk.split_to(chunk.len().min(limit.saturating_sub(self.size)));
        let end = self.begin + self.size;
        self.memory[end..end + taken.len()].copy_from_slice(&taken);
        self.size += taken.len();
    }
}

impl GrowingPart {
    /// Opens the part to go on at `at`, which is its end. Dropped before [`GrowingPart::finish`], it
    /// leaves what was written.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be opened.
    pub(crate) async fn open(path: &Path, at: u64, hasher: Option<Hasher>) -> Result<Self> {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let path = path.to_owned();
        let (file, direct) = blocking(move || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            // Not every file system can; then it is not needed either.
            let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
            let direct = OpenOptions::new().write(true).custom_flags(flags).open(&path).ok();
            Ok((Arc::new(file), direct.map(Arc::new)))
        })
        .await?;
        Ok(GrowingPart {
            file,
            direct,
            folder,
            piece: Piece::new(),
            spare: None,
            at,
            synced: at,
            hasher,
            writing: None,
            syncing: None,
        })
    }

    /// The bytes of the part with those that are not written yet.
    pub(crate) fn size(&self) -> u64 {
        self.at + self.piece.size as u64
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// `Unavailable` when bytes that came before could not be written.
    pub(crate) async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            // After a resume the first piece ends where the others can begin.
            let limit = PIECE_BYTES - (self.at % ALIGNMENT as u64) as usize;
            self.piece.fill(&mut chunk, limit);
            if self.piece.size >= limit {
                self.put().await?;
            }
        }
        Ok(())
    }

    /// Begins to write what was gathered, once the piece before is written.
    async fn put(&mut self) -> Result<()> {
        self.wait().await?;
        if self.at - self.synced >= SYNC_BYTES {
            self.sync_so_far().await?;
        }
        let next = self.spare.take().unwrap_or_else(Piece::new);
        let piece = Arc::new(std::mem::replace(&mut self.piece, next));
        let at = self.at;
        self.at += piece.size as u64;
        let hashed = self.hasher.take().map(|mut hasher| {
            let piece = Arc::clone(&piece);
            tokio::task::spawn_blocking(move || {
                hasher.update(piece.bytes());
                hasher
            })
        });
        let (file, direct) = (Arc::clone(&self.file), self.direct.clone());
        let bytes = Arc::clone(&piece);
        let written = tokio::task::spawn_blocking(move || {
            let bytes = bytes.bytes();
            let is_aligned =
                at.is_multiple_of(ALIGNMENT as u64) && bytes.len().is_multiple_of(ALIGNMENT);
            match direct {
                Some(direct) if is_aligned => match direct.write_all_at(bytes, at) {
                    // Its sectors are larger, or it only seemed that it could.
                    Err(error) if error.kind() == ErrorKind::InvalidInput => {
                        file.write_all_at(bytes, at)
                    }
                    written => written,
                },
                _ => file.write_all_at(bytes, at),
            }
        });
        self.writing = Some(Writing { written, hashed, piece });
        Ok(())
    }

    /// Begins to sync what is written, once that before it is synced.
    async fn sync_so_far(&mut self) -> Result<()> {
        if self.direct.is_some() {
            // There is next to nothing in the page cache.
            return Ok(());
        }
        self.wait_for_sync().await?;
        let (file, from, to) = (Arc::clone(&self.file), self.synced, self.at);
        self.synced = to;
        self.syncing = Some(tokio::task::spawn_blocking(move || {
            file.sync_data()?;
            // It is advice: nothing hangs on it.
            let _ = fadvise(&file, from, NonZeroU64::new(to - from), Advice::DontNeed);
            Ok(())
        }));
        Ok(())
    }

    async fn wait_for_sync(&mut self) -> Result<()> {
        let Some(syncing) = self.syncing.take() else { return Ok(()) };
        let synced = syncing.await.map_err(task_failed)?;
        synced.map_err(|error| crate::lance_error::from_io(error, "sync of an upload"))
    }

    async fn wait(&mut self) -> Result<()> {
        let Some(Writing { written, hashed, piece }) = self.writing.take() else { return Ok(()) };
        if let Some(hashed) = hashed {
            self.hasher = Some(hashed.await.map_err(task_failed)?);
        }
        let written = written.await.map_err(task_failed)?;
        written.map_err(|error| crate::lance_error::from_io(error, "write of an upload"))?;
        self.spare = Arc::into_inner(piece).map(|piece| Piece { size: 0, ..piece });
        Ok(())
    }

    /// Makes all of it durable; its size, and what was hashed of it.
    ///
    /// # Errors
    /// `Unavailable` when bytes could not be written or synced.
    pub(crate) async fn finish(mut self) -> Result<(u64, Option<Hasher>)> {
        let odd = self.piece.size % ALIGNMENT;
        if self.direct.is_some() && odd > 0 && odd < self.piece.size {
            // All but the last bytes past the page cache.
            let rest = Bytes::copy_from_slice(&self.piece.bytes()[self.piece.size - odd..]);
            self.piece.size -= odd;
            self.put().await?;
            self.write(rest).await?;
        }
        if self.piece.size > 0 {
            self.put().await?;
        }
        self.wait().await?;
        self.wait_for_sync().await?;
        let (file, folder) = (self.file, self.folder);
        blocking(move || {
            file.sync_all()?;
            File::open(&folder)?.sync_all()
        })
        .await?;
        Ok((self.at, self.hasher))
    }
}

fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::internal("a task of an upload failed").with_source(error)
}

/// Runs `work` where it may wait for the disk.
///
/// # Errors
/// Those of `work`, as the store's.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(task_failed)?
        .map_err(|error| crate::lance_error::from_io(error, "write of an upload"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ wherever they are cut.
    fn pattern(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[tokio::test]
    async fn a_part_is_what_was_sent_wherever_requests_and_chunks_end() {
        let folder = tempfile::tempdir().unwrap();
        let whole = pattern(2 * PIECE_BYTES + 12_345);
        let ends = [
            vec![whole.len()],
            vec![1, 5_000, PIECE_BYTES, whole.len()],
            vec![ALIGNMENT, PIECE_BYTES + 7, whole.len()],
        ];
        for (number, ends) in ends.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let mut at = 0;
            let mut hasher = Some(Hasher::new());
            for end in ends {
                let mut part = GrowingPart::open(&path, at as u64, hasher.take()).await.unwrap();
                for chunk in whole[at..*end].chunks(700_001) {
                    part.write(Bytes::copy_from_slice(chunk)).await.unwrap();
                }
                assert_eq!(part.size(), *end as u64);
                let (size, hashed) = part.finish().await.unwrap();
                assert_eq!(size, *end as u64);
                (at, hasher) = (*end, hashed);
            }
            assert!(std::fs::read(&path).unwrap() == whole, "requests end at {ends:?}");
            let known = crate::checksums::of_file(&path).unwrap();
            assert_eq!(hasher.unwrap().finish(), known);
        }
    }
}
