//! Reads of a lake in a bucket, kept on a local disk.
//!
//! ```text
//!   read of a range ─► its blocks: on the disk? ─► yes: from there
//!                                             └──► no: one request for each run of missing ones,
//!                                                      which are kept for the next time
//! ```
//!
//! Only what never changes under its name is kept: data files, deletion files, indexes and large blobs,
//! whose names are random or say their content. Manifests, references and the lake's own records are
//! always asked for. So nothing in the cache can be old; it may be lost at any time, and what is damaged
//! is found by its checksum and counts as missing.
//!
//! What always holds: the disk space is bounded by the size that is set; memory is 16 MiB of blocks, as
//! much on the way to the disk, and the ranges that are read. One process uses a folder at a time.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, RecoverMode,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lakebed_core::{Error, ErrorKind, Result};
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
};

use crate::lance_error::from_io;
use crate::root::BLOBS_FOLDER;

/// Bytes of one block: what is fetched at least, and kept or lost as one.
const BLOCK_BYTES: u64 = 256 << 10;
/// A longer range is read past the cache: it would only push out what is read again and again.
const RANGE_BYTES_MAX: u64 = 32 << 20;
/// Memory for blocks, and for those on their way to the disk.
const MEMORY_BYTES: usize = 16 << 20;
/// What the disk part is divided into; freed as one.
const REGION_BYTES: usize = 16 << 20;
/// The least size that is worth its overhead.
const DISK_BYTES_MIN: u64 = 8 * REGION_BYTES as u64;

/// Where reads are kept, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadCacheOptions {
    /// A folder on a local disk; each lake has its own below it.
    pub folder: PathBuf,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// An open cache.
#[derive(Clone)]
pub(crate) struct ReadCache {
    current: Arc<ArcSwap<Blocks>>,
    folder: PathBuf,
    bytes: u64,
    _lock: Arc<File>,
}

/// The blocks since the cache was emptied last, in a folder of their own: what is emptied is deleted from
/// the disk, not only forgotten.
struct Blocks {
    cache: HybridCache<String, Bytes>,
    number: u64,
}

impl fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadCache").finish_non_exhaustive()
    }
}

impl ReadCache {
    /// Opens the cache of a lake, with what is left in it.
    ///
    /// # Errors
    /// `InvalidArgument` when it is too small; `AlreadyExists` while another process uses the folder.
    pub(crate) async fn open(options: &ReadCacheOptions, lake_id: &str) -> Result<ReadCache> {
        if options.bytes < DISK_BYTES_MIN {
            return Err(Error::invalid(format!(
                "read_cache_bytes is {}; it must be at least {DISK_BYTES_MIN}",
                options.bytes
            )));
        }
        let folder = options.folder.join(lake_id);
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|error| from_io(error, "make the folder of the read cache"))?;
        let lock = lock(&folder)?;
        let number = newest_alone(&folder)?;
        let blocks = Blocks::open(&folder, number, options.bytes).await?;
        Ok(ReadCache {
            current: Arc::new(ArcSwap::from_pointee(blocks)),
            folder,
            bytes: options.bytes,
            _lock: Arc::new(lock),
        })
    }

    /// Deletes everything. What a read fetches meanwhile goes with it, or is fetched after it.
    ///
    /// # Errors
    /// `Unavailable` when the disk fails.
    pub(crate) async fn clear(&self) -> Result<()> {
        let number = self.current.load().number + 1;
        let empty = Blocks::open(&self.folder, number, self.bytes).await?;
        let old = self.current.swap(Arc::new(empty));
        // Whoever reads it goes on with files that have no name any more.
        let removed = std::fs::remove_dir_all(folder_of(&self.folder, old.number));
        removed.map_err(|error| from_io(error, "delete the read cache"))
    }

    fn insert(&self, key: String, bytes: Bytes) {
        self.current.load().cache.insert(key, bytes);
    }

    async fn get(&self, key: &String) -> Option<Bytes> {
        let blocks = self.current.load_full();
        match blocks.cache.get(key).await {
            Ok(found) => found.map(|entry| entry.value().clone()),
            Err(error) => {
                tracing::debug!(%error, "a block of the read cache cannot be read");
                None
            }
        }
    }
}

impl Blocks {
    async fn open(folder: &FsPath, number: u64, bytes: u64) -> Result<Blocks> {
        let opened = |error: foyer::Error| {
            Error::new(ErrorKind::Unavailable, "the read cache cannot be opened")
                .with_source(error.to_string())
        };
        let device = FsDeviceBuilder::new(folder_of(folder, number))
            .with_capacity(usize::try_from(bytes).unwrap_or(usize::MAX))
            .build()
            .map_err(opened)?;
        let engine = BlockEngineConfig::new(device)
            .with_block_size(REGION_BYTES)
            .with_buffer_pool_size(MEMORY_BYTES);
        let cache = HybridCacheBuilder::new()
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(MEMORY_BYTES)
            .with_weighter(|key: &String, block: &Bytes| key.len() + block.len())
            .storage()
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await
            .map_err(opened)?;
        Ok(Blocks { cache, number })
    }
}

fn folder_of(folder: &FsPath, number: u64) -> PathBuf {
    folder.join(format!("blocks-{number}"))
}

/// The number of the newest blocks, after all older ones are deleted: a process that was killed while it
/// emptied the cache left some.
fn newest_alone(folder: &FsPath) -> Result<u64> {
    let failed = |error| from_io(error, "look into the read cache");
    let mut numbers: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_str().and_then(|name| name.strip_prefix("blocks-"));
        let number = text.and_then(|text| text.parse::<u64>().ok());
        numbers.extend(number);
    }
    let newest = numbers.iter().copied().max().unwrap_or(0);
    for number in numbers.into_iter().filter(|number| *number != newest) {
        std::fs::remove_dir_all(folder_of(folder, number)).map_err(failed)?;
    }
    Ok(newest)
}

/// Makes sure that nobody else uses the folder.
fn lock(folder: &FsPath) -> Result<File> {
    let path = folder.join("lock");
    let file =
        File::create(&path).map_err(|error| from_io(error, "open the read cache's lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("another server uses the read cache (lock file {})", path.display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(from_io(error, "lock the read cache")),
    }
}

/// Whether the object at a path never changes.
fn is_fixed(path: &Path) -> bool {
    let parts: Vec<_> = path.parts().collect();
    let folders = &parts[..parts.len().saturating_sub(1)];
    let is_in = |name: &str| folders.iter().any(|part| part.as_ref() == name);
    is_in("data") || is_in("_indices") || is_in("_deletions") || is_in(BLOBS_FOLDER)
}

impl WrappingObjectStore for ReadCache {
    fn wrap(&self, _prefix: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(CachedStore { inner, cache: self.clone() })
    }

    fn wrap_paginated(
        &self,
        _prefix: &str,
        inner: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        // Listings are not cached.
        Some(inner)
    }
}

/// A store whose reads go through the cache.
#[derive(Debug)]
struct CachedStore {
    inner: Arc<dyn ObjectStore>,
    cache: ReadCache,
}

impl fmt::Display for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cached {}", self.inner)
    }
}

/// What is kept of an object beside its blocks.
struct Kept {
    meta: ObjectMeta,
}

impl Kept {
    fn key(path: &Path) -> String {
        format!("{path}#")
    }

    fn encode(meta: &ObjectMeta) -> Bytes {
        let tag = meta.e_tag.as_deref().unwrap_or("");
        format!("{} {} {tag}", meta.size, meta.last_modified.timestamp_millis()).into()
    }

    fn decode(path: &Path, bytes: &Bytes) -> Option<Kept> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(3, ' ');
        let size = parts.next()?.parse().ok()?;
        let at_ms = parts.next()?.parse().ok()?;
        let tag = parts.next().filter(|tag| !tag.is_empty());
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: chrono::DateTime::from_timestamp_millis(at_ms)?,
            size,
            e_tag: tag.map(str::to_owned),
            version: None,
        };
        Some(Kept { meta })
    }
}

impl CachedStore {
    /// A range of an object that never changes.
    async fn read(&self, path: &Path, range: Range<u64>) -> object_store::Result<GetResult> {
        let kept = self.cache.get(&Kept::key(path)).await;
        let kept = kept.and_then(|kept| Kept::decode(path, &kept));
        // A store answers a range that goes beyond the end up to there, and refuses one behind it.
        let end = match &kept {
            Some(kept) if range.start >= kept.meta.size => {
                let options = GetOptions { range: Some(range.into()), ..Default::default() };
                return self.inner.get_opts(path, options).await;
            }
            Some(kept) => range.end.min(kept.meta.size),
            None => range.end,
        };
        let numbers = range.start / BLOCK_BYTES..(end - 1) / BLOCK_BYTES + 1;
        let mut blocks: Vec<Option<Bytes>> = Vec::new();
        for number in numbers.clone() {
            blocks.push(match &kept {
                Some(_) => self.cache.get(&key(path, number)).await,
                None => None,
            });
        }
        let mut meta = kept.map(|kept| kept.meta);
        let hits = blocks.iter().flatten().count();
        metrics::counter!("lakebed_read_cache_hits_total").increment(hits as u64);
        metrics::counter!("lakebed_read_cache_misses_total")
            .increment((blocks.len() - hits) as u64);
        let mut at = 0;
        while at < blocks.len() {
            if blocks[at].is_some() {
                at += 1;
                continue;
            }
            let run = blocks[at..].iter().take_while(|block| block.is_none()).count();
            let first = numbers.start + at as u64;
            let fetched = self.fetch(path, first..first + run as u64, meta.as_ref()).await?;
            for (place, block) in fetched.blocks.into_iter().enumerate().take(run) {
                blocks[at + place] = Some(block);
            }
            if meta.is_none() {
                self.cache.insert(Kept::key(path), Kept::encode(&fetched.meta));
                meta = Some(fetched.meta);
            }
            at += run;
        }
        let Some(meta) = meta else { return Err(wrong(path, "no block")) };
        let end = range.end.min(meta.size);
        let bytes = cut(&blocks, numbers.start, range.start..end)
            .ok_or_else(|| wrong(path, "a store answered less than was asked for"))?;
        Ok(GetResult {
            payload: GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed()),
            meta,
            range: range.start..end,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    /// Fetches a run of blocks in one request, and keeps them.
    async fn fetch(
        &self,
        path: &Path,
        numbers: Range<u64>,
        meta: Option<&ObjectMeta>,
    ) -> object_store::Result<Fetched> {
        let end = numbers.end * BLOCK_BYTES;
        let end = meta.map_or(end, |meta| end.min(meta.size));
        let range = GetRange::Bounded(numbers.start * BLOCK_BYTES..end);
        let options = GetOptions { range: Some(range), ..Default::default() };
        let answer = self.inner.get_opts(path, options).await?;
        let meta = answer.meta.clone();
        let bytes = answer.bytes().await?;
        metrics::counter!("lakebed_read_cache_fetched_bytes_total").increment(bytes.len() as u64);
        let mut blocks = Vec::new();
        for (place, number) in numbers.enumerate() {
            let start = (place as u64 * BLOCK_BYTES) as usize;
            let end = (start + BLOCK_BYTES as usize).min(bytes.len());
            if start >= end {
                break;
            }
            // A copy of its own: a slice would keep the whole answer in memory.
            let block = Bytes::copy_from_slice(&bytes[start..end]);
            let whole = block.len() as u64 == (meta.size - number * BLOCK_BYTES).min(BLOCK_BYTES);
            if whole {
                self.cache.insert(key(path, number), block.clone());
            }
            blocks.push(block);
        }
        Ok(Fetched { blocks, meta })
    }
}

struct Fetched {
    blocks: Vec<Bytes>,
    meta: ObjectMeta,
}

fn key(path: &Path, number: u64) -> String {
    format!("{path}#{number}")
}

fn wrong(path: &Path, what: &str) -> object_store::Error {
    object_store::Error::Generic { store: "read cache", source: format!("{path}: {what}").into() }
}

/// A range out of its blocks, the first of which has the number `first`.
fn cut(blocks: &[Option<Bytes>], first: u64, range: Range<u64>) -> Option<Bytes> {
    let mut parts: Vec<Bytes> = Vec::with_capacity(blocks.len());
    for (place, block) in blocks.iter().enumerate() {
        let begin = (first + place as u64) * BLOCK_BYTES;
        let from = range.start.max(begin);
        let to = range.end.min(begin + BLOCK_BYTES);
        if from >= to {
            continue;
        }
        let block = block.as_ref()?;
        let (from, to) = ((from - begin) as usize, (to - begin) as usize);
        if to > block.len() {
            return None;
        }
        parts.push(block.slice(from..to));
    }
    if parts.len() <= 1 {
        return parts.pop();
    }
    let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| joined.extend_from_slice(part));
    Some(joined.freeze())
}

#[async_trait::async_trait]
impl ObjectStore for CachedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        let is_plain = !options.head
            && options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none()
            && options.version.is_none();
        match &options.range {
            Some(GetRange::Bounded(range))
                if is_plain
                    && range.start < range.end
                    && range.end - range.start <= RANGE_BYTES_MAX
                    && is_fixed(location) =>
            {
                self.read(location, range.clone()).await
            }
            _ => self.inner.get_opts(location, options).await,
        }
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        if !is_fixed(location) {
            return self.inner.get_ranges(location, ranges).await;
        }
        let reads = ranges.iter().map(|range| async {
            let range = GetRange::Bounded(range.clone());
            let options = GetOptions { range: Some(range), ..Default::default() };
            self.get_opts(location, options).await?.bytes().await
        });
        futures::future::try_join_all(reads).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;

    async fn cached(folder: &FsPath) -> (Arc<InMemory>, Arc<dyn ObjectStore>, ReadCache) {
        let options = ReadCacheOptions { folder: folder.to_owned(), bytes: DISK_BYTES_MIN };
        let cache = ReadCache::open(&options, "lake").await.unwrap();
        let inner = Arc::new(InMemory::new());
        let store = cache.wrap("", Arc::clone(&inner) as Arc<dyn ObjectStore>);
        (inner, store, cache)
    }

    #[test]
    fn what_may_change_under_its_name_is_not_kept() {
        for path in ["a/t.lance/data/x.lance", "t.lance/_indices/u/page", "_blobs/sha256/ab/abc"] {
            assert!(is_fixed(&Path::from(path)), "{path}");
        }
        for path in [
            "t.lance/_versions/1.manifest",
            "t.lance/_refs/tags/a.json",
            "_lakebed/lake.json",
            "t.lance/_transactions/1.txn",
            "data",
        ] {
            assert!(!is_fixed(&Path::from(path)), "{path}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_range_is_what_the_store_has() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, store, _cache) = cached(folder.path()).await;
        let size = 3 * BLOCK_BYTES + 1_000;
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let path = Path::from("t.lance/data/x.lance");
        inner.put(&path, bytes.clone().into()).await.unwrap();
        let ends = [0, 1, 10, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, size - 1, size];
        for _ in 0..2 {
            for start in ends {
                for end in ends.into_iter().chain([size + 5]).filter(|end| *end > start) {
                    let found = store.get_range(&path, start..end).await;
                    let expected = inner.get_range(&path, start..end).await;
                    match (found, expected) {
                        (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{start}..{end}"),
                        (Err(_), Err(_)) => {}
                        (found, expected) => {
                            panic!("{start}..{end}: {found:?} in place of {expected:?}")
                        }
                    }
                }
            }
        }
        // From here on the store is not needed.
        inner.delete(&path).await.unwrap();
        let found = store.get_range(&path, 5..size - 5).await.unwrap();
        assert_eq!(found, bytes[5..(size - 5) as usize]);
        let ranges = [1..2, BLOCK_BYTES..2 * BLOCK_BYTES + 7];
        let found = store.get_ranges(&path, &ranges).await.unwrap();
        for (range, found) in ranges.into_iter().zip(found) {
            assert_eq!(found, bytes[range.start as usize..range.end as usize]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_manifest_is_asked_for_each_time_and_what_is_cleared_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, store, cache) = cached(folder.path()).await;
        let manifest = Path::from("t.lance/_versions/1.manifest");
        let data = Path::from("t.lance/data/x.lance");
        for text in ["first", "other"] {
            inner.put(&manifest, text.into()).await.unwrap();
            assert_eq!(store.get_range(&manifest, 0..5).await.unwrap(), text);
        }
        inner.put(&data, "first".into()).await.unwrap();
        assert_eq!(store.get_range(&data, 0..5).await.unwrap(), "first");
        inner.delete(&data).await.unwrap();
        assert_eq!(store.get_range(&data, 0..5).await.unwrap(), "first");
        cache.clear().await.unwrap();
        assert!(store.get_range(&data, 0..5).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_is_used_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let options = ReadCacheOptions { folder: folder.path().to_owned(), bytes: DISK_BYTES_MIN };
        let first = ReadCache::open(&options, "lake").await.unwrap();
        let error = ReadCache::open(&options, "lake").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let other = ReadCache::open(&options, "another").await.unwrap();
        drop((first, other));
        let small = ReadCacheOptions { bytes: 1 << 20, ..options };
        assert_eq!(
            ReadCache::open(&small, "lake").await.unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }
}
