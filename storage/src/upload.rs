//! Uploads: big blobs that come in pieces before a row refers to them.
//!
//! ```text
//!   create ─► parts at growing offsets ─► complete (size and checksum checked) ─► `upload:ID` in a write
//! ```
//!
//! An upload is a folder `_lakebed/uploads/<id>/`. In a bucket it has parts named by their offsets, each
//! at most 64 MiB; a part is stored whole or not at all, so the end of the last part is where a client
//! resumes, also after the server died. Completing stitches the parts into one object. On a local lake
//! there is one part, which grows, and which completing gives a second name: no byte is written twice. A
//! write that refers to a
//! large upload makes it a blob of the lake under its digest; the upload itself expires on its own, 24
//! hours after it was created, whether it was used or not.

use async_recursion::async_recursion as boxed;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::blob::{ByteStream, blob_path, hex};
use crate::blob_digest::BlobDigest;
use crate::checksums::{self, Checksums, Claimed, Hasher};
use crate::growing_part::{GrowingPart, blocking};
use crate::lake::{Lake, Shared};
use crate::lance_error::from_object_store;
use crate::root::SYSTEM_FOLDER;

/// Bytes of one stored part: what a client loses at most when the server dies.
const PART_BYTES: u64 = 64 << 20;
/// What S3 copies by itself in one request. <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
const COPY_BYTES_MAX: u64 = 5 << 30;
/// Bytes that are handed to the store at a time; S3 takes no smaller piece than 5 MiB.
const PIECE_BYTES: usize = 8 << 20;

/// The record of an upload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Created {
    created_at_ms: i64,
    /// The store's name of a multipart upload, where the client sends the parts to the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multipart: Option<String>,
}

/// A finished upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finished {
    #[serde(skip)]
    id: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    /// Absent in what was written before it was computed.
    #[serde(default)]
    crc64nvme: Option<String>,
}

impl Finished {
    fn is(&self, size: u64, claimed: &Claimed) -> bool {
        let same = match claimed {
            Claimed::Sha256(sha256) => *sha256 == self.sha256,
            Claimed::Crc64Nvme(crc) => self.crc64nvme.as_ref() == Some(crc),
        };
        size == self.size && same
    }
}

/// The uploads of a lake.
#[derive(Debug, Clone)]
pub struct Uploads {
    pub(crate) shared: Arc<Shared>,
}

/// The object in an upload's folder that says that a write referred to it.
const USED_MARK: &str = "used";

/// How the names of an upload's parts begin; the offset follows.
const PART_PREFIX: &str = "part-";

/// Uploads that a request of this process is changing: two at once would interleave their bytes.
static BUSY: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

pub(crate) struct Claim(String);

impl Drop for Claim {
    fn drop(&mut self) {
        BUSY.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

impl Lake {
    /// The uploads of the lake.
    pub fn uploads(&self) -> Uploads {
        Uploads::new(self.shared.clone())
    }
}

impl Uploads {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Uploads { shared }
    }

    pub(crate) fn folder(&self, id: &str) -> Result<String> {
        // Ids are ours: anything else cannot exist, and must not become a path.
        let is_id = (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match is_id {
            true => Ok(format!("uploads/{id}")),
            false => Err(Error::invalid(format!("`{}` is no upload id", shown(id)))),
        }
    }

    pub(crate) fn path(&self, relative: &str) -> Path {
        self.shared.root.path(&format!("{SYSTEM_FOLDER}/{relative}"))
    }

    pub(crate) fn claim(&self, id: &str) -> Result<Claim> {
        let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        match busy.insert(id.to_owned()) {
            true => Ok(Claim(id.to_owned())),
            false => Err(Error::new(
                ErrorKind::Conflict,
                format!("another request is changing upload `{id}`"),
            )
            .with_retry_after_ms(500)),
        }
    }

    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// `Busy` when there are `uploads_max` already.
    #[boxed]
    pub async fn create(&self) -> Result<String> {
        self.begin(false).await
    }

    /// As [`Uploads::create`]; where it is `direct`, the parts go to the store itself.
    pub(crate) async fn begin(&self, direct: bool) -> Result<String> {
        let open = self.unused().await?.len();
        if open >= self.shared.limits.uploads_max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("there are {open} uploads; the limit uploads_max is reached"),
            )
            .with_retry_after_ms(60_000));
        }
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Error::internal(format!("no randomness: {error}")))?;
        let id = hex(&random);
        let multipart = match direct {
            true => Some(self.begin_multipart(&id).await?),
            false => None,
        };
        let created = Created { created_at_ms: self.shared.clock.now_ms(), multipart };
        let bytes = serde_json::to_vec(&created)
            .map_err(|error| Error::internal("encode an upload").with_source(error))?;
        let path = format!("{}/upload.json", self.folder(&id)?);
        self.shared.system.create(&path, Bytes::from(bytes)).await?;
        Ok(id)
    }

    /// How many bytes are stored so far.
    ///
    /// # Errors
    /// `NotFound` when there is no such upload.
    #[boxed]
    pub async fn offset(&self, id: &str) -> Result<u64> {
        let folder = self.folder(id)?;
        let created = self.check_open(id, &folder).await?;
        if let Some(finished) = self.read_finished(id, &folder).await? {
            return Ok(finished.size);
        }
        if created.multipart.is_some() {
            return Ok(self.put_together(&folder).await?.unwrap_or(0));
        }
        Ok(self.parts(&folder).await?.last().map_or(0, |(offset, size)| offset + size))
    }

    pub(crate) async fn check_open(&self, id: &str, folder: &str) -> Result<Created> {
        let Some(bytes) = self.shared.system.get(&format!("{folder}/upload.json")).await? else {
            return Err(unknown(id));
        };
        let created: Created = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("upload `{id}` is damaged")).with_source(error)
        })?;
        match self.is_expired(&created) {
            true => Err(Error::not_found(format!("upload `{id}` expired"))),
            false => Ok(created),
        }
    }

    fn is_expired(&self, created: &Created) -> bool {
        let ttl_ms = self.shared.limits.upload_ttl_ms;
        created.created_at_ms.saturating_add(ttl_ms) <= self.shared.clock.now_ms()
    }

    /// The parts as `(offset, size)` in order, up to the first gap.
    async fn parts(&self, folder: &str) -> Result<Vec<(u64, u64)>> {
        let mut parts = Vec::new();
        let mut next = 0;
        for object in self.shared.system.list(folder).await? {
            let offset = object
                .path
                .rsplit('/')
                .next()
                .and_then(|name| name.strip_prefix(PART_PREFIX))
                .and_then(|offset| offset.parse::<u64>().ok());
            if offset == Some(next) {
                parts.push((next, object.size));
                next += object.size;
            }
        }
        Ok(parts)
    }

    /// Appends at `offset`, which must be what is stored so far; returns the new offset. What arrived
    /// before `body` broke is kept, so that the client can resume there.
    ///
    /// # Errors
    /// `Conflict` naming the offset to resume at; `InvalidArgument` beyond `upload_bytes_max`; the error
    /// of `body`.
    #[boxed]
    pub async fn append(&self, id: &str, offset: u64, mut body: ByteStream) -> Result<u64> {
        let _claim = self.claim(id)?;
        let folder = self.folder(id)?;
        if self.check_open(id, &folder).await?.multipart.is_some() {
            return Err(Error::invalid(format!(
                "upload `{id}` is direct: its parts go to the store, see `/v1/uploads/{id}/parts`"
            )));
        }
        let stored = self.offset(id).await?;
        if self.read_finished(id, &folder).await?.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("upload `{id}` is complete and takes no more"),
            ));
        }
        if offset != stored {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("upload `{id}` has {stored} bytes; resume there, not at {offset}"),
            ));
        }
        if let Some(path) = self.growing_part(&folder).await? {
            return self.append_growing(id, &path, stored, body).await;
        }
        let mut at = stored;
        let mut part: Option<PartWriter> = None;
        let outcome: Result<()> = loop {
            let chunk = match body.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(chunk)) => chunk,
            };
            let limit = self.shared.limits.upload_bytes_max;
            if at + chunk.len() as u64 > limit {
                break Err(Error::invalid(format!(
                    "upload `{id}` would exceed the limit upload_bytes_max of {limit} bytes"
                )));
            }
            at += chunk.len() as u64;
            let writer = match &mut part {
                Some(writer) => writer,
                None => {
                    let begin = at - chunk.len() as u64;
                    let path = self.path(&part_path(&folder, begin));
                    part.insert(PartWriter::begin(self.shared.root.store(), &path).await?)
                }
            };
            writer.write(chunk).await?;
            if writer.size >= PART_BYTES
                && let Some(full) = part.take()
            {
                full.finish().await?;
            }
        };
        if let Some(rest) = part {
            rest.finish().await?;
        }
        outcome.map(|()| at)
    }

    /// The file of the one part that grows; nothing in a bucket, nor for an upload that has parts from
    /// before there was such a file.
    async fn growing_part(&self, folder: &str) -> Result<Option<PathBuf>> {
        match self.parts(folder).await?.len() {
            0 | 1 => self.shared.root.folder_of(&self.path(&part_path(folder, 0))),
            _ => Ok(None),
        }
    }

    async fn append_growing(
        &self,
        id: &str,
        path: &std::path::Path,
        stored: u64,
        mut body: ByteStream,
    ) -> Result<u64> {
        let limit = self.shared.limits.upload_bytes_max;
        let hasher = checksums::begin(id, stored);
        let mut part = GrowingPart::open(path, stored, hasher).await?;
        let outcome = loop {
            let chunk = match body.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(chunk)) => chunk,
            };
            if part.size().saturating_add(chunk.len() as u64) > limit {
                break Err(Error::invalid(format!(
                    "upload `{id}` would exceed the limit upload_bytes_max of {limit} bytes"
                )));
            }
            part.write(chunk).await?;
        };
        // What arrived before the body broke is kept.
        let (size, hasher) = part.finish().await?;
        if let (Ok(()), Some(hasher)) = (&outcome, hasher) {
            checksums::keep(id, size, hasher);
        }
        outcome.map(|()| size)
    }

    /// Ends an upload: checks its size and a checksum and makes it one object; its SHA-256. Completing
    /// twice with the same values is fine.
    ///
    /// # Errors
    /// `InvalidArgument` when size or checksum differ from what is stored; the parts stay.
    #[boxed]
    pub async fn complete(&self, id: &str, size: u64, claimed: &Claimed) -> Result<String> {
        let _claim = self.claim(id)?;
        let folder = self.folder(id)?;
        let created = self.check_open(id, &folder).await?;
        if let Some(sha256) = self.completed_before(id, &folder, size, claimed).await? {
            return Ok(sha256);
        }
        if created.multipart.is_some() {
            return Err(Error::invalid(format!(
                "upload `{id}` is direct: field `parts` is missing, with the number and the ETag of each"
            )));
        }
        let parts = self.parts(&folder).await?;
        let stored = parts.last().map_or(0, |(offset, size)| offset + size);
        if stored != size {
            return Err(Error::invalid(format!(
                "`size` is {size}, and upload `{id}` has {stored} bytes; nothing was completed"
            )));
        }
        let blob = self.path(&format!("{folder}/blob"));
        let growing = match parts.len() {
            1 => self.growing_part(&folder).await?,
            _ => None,
        };
        let (writer, actual) = match growing.clone() {
            Some(part) => match checksums::kept(id, size) {
                Some(kept) => (None, kept),
                None => (None, blocking(move || checksums::of_file(&part)).await?),
            },
            None => {
                let mut hasher = Hasher::new();
                let mut writer = PartWriter::begin(self.shared.root.store(), &blob).await?;
                for (offset, _) in &parts {
                    let path = self.path(&part_path(&folder, *offset));
                    let mut chunks = self.stream(&path).await?;
                    while let Some(chunk) = chunks.try_next().await? {
                        hasher.update(&chunk);
                        writer.write(chunk).await?;
                    }
                }
                (Some(writer), hasher.finish())
            }
        };
        if let Err(error) = check_claim(id, &actual, claimed) {
            if let Some(writer) = writer {
                writer.abort().await;
            }
            return Err(error);
        }
        match (writer, growing, self.shared.root.folder_of(&blob)?) {
            (Some(writer), ..) => writer.finish().await?,
            (None, Some(part), Some(blob)) => {
                // A second name, which takes no room: the part stays until the upload is complete, so
                // that a failure from here on loses nothing.
                let linked = tokio::task::spawn_blocking(move || link(&part, &blob)).await;
                linked
                    .map_err(|error| Error::internal("link task failed").with_source(error))??;
            }
            (None, ..) => return Err(Error::internal("an upload has neither parts nor a file")),
        }
        let sha256 = self.finish(id, &folder, size, actual).await?;
        checksums::forget(id);
        for (offset, _) in parts {
            self.shared.system.delete(&part_path(&folder, offset)).await?;
        }
        Ok(sha256)
    }

    /// The SHA-256 of an upload that is complete already.
    pub(crate) async fn completed_before(
        &self,
        id: &str,
        folder: &str,
        size: u64,
        claimed: &Claimed,
    ) -> Result<Option<String>> {
        let Some(finished) = self.read_finished(id, folder).await? else { return Ok(None) };
        match finished.is(size, claimed) {
            true => Ok(Some(finished.sha256)),
            false => Err(Error::invalid(format!(
                "upload `{}` is complete with {} bytes and the SHA-256 {}",
                finished.id, finished.size, finished.sha256
            ))),
        }
    }

    /// Notes that the bytes of an upload are one object and the right ones; its SHA-256.
    pub(crate) async fn finish(
        &self,
        id: &str,
        folder: &str,
        size: u64,
        actual: Checksums,
    ) -> Result<String> {
        let Checksums { sha256, crc64nvme } = actual;
        let finished = Finished { id: id.to_owned(), size, sha256, crc64nvme: Some(crc64nvme) };
        let bytes = serde_json::to_vec(&finished)
            .map_err(|error| Error::internal("encode an upload").with_source(error))?;
        self.shared.system.put(&format!("{folder}/complete.json"), Bytes::from(bytes)).await?;
        Ok(finished.sha256)
    }

    pub(crate) async fn stream(&self, path: &Path) -> Result<ByteStream> {
        let read = |error| from_object_store(error, "read of an upload");
        let result = self.shared.root.store().get(path).await.map_err(read)?;
        Ok(result.into_stream().map_err(read).boxed())
    }

    /// Throws an upload away.
    ///
    /// # Errors
    /// `NotFound` when there is no such upload.
    #[boxed]
    pub async fn abort(&self, id: &str) -> Result<()> {
        let _claim = self.claim(id)?;
        let folder = self.folder(id)?;
        if self.shared.system.list(&folder).await?.is_empty() {
            return Err(unknown(id));
        }
        checksums::forget(id);
        self.delete(&folder).await
    }

    async fn delete(&self, folder: &str) -> Result<()> {
        self.abort_multipart(folder).await?;
        let objects = self.shared.system.list(folder).await?;
        // The record goes last: until then a deletion that was cut off is found and finished.
        let is_record = |path: &str| path.ends_with("/upload.json");
        for object in objects.iter().filter(|object| !is_record(&object.path)) {
            self.shared.system.delete(&object.path).await?;
        }
        self.shared.system.delete(&format!("{folder}/upload.json")).await
    }

    async fn list(&self) -> Result<Vec<(String, i64)>> {
        let objects = self.shared.system.list("uploads").await?;
        Ok(objects
            .into_iter()
            .filter(|object| object.path.ends_with("/upload.json"))
            .filter_map(|object| {
                let id = object.path.split('/').nth(1)?.to_owned();
                Some((id, object.modified_ms))
            })
            .collect())
    }

    /// The uploads that no write has referred to yet, with the bytes that are stored for each.
    pub(crate) async fn unused(&self) -> Result<HashMap<String, u64>> {
        let mut bytes: HashMap<String, u64> = HashMap::new();
        let mut begun: HashSet<String> = HashSet::new();
        let mut used: HashSet<String> = HashSet::new();
        for object in self.shared.system.list("uploads").await? {
            let mut parts = object.path.split('/').skip(1);
            let (Some(id), Some(name)) = (parts.next(), parts.next()) else { continue };
            match name {
                "upload.json" => drop(begun.insert(id.to_owned())),
                USED_MARK => drop(used.insert(id.to_owned())),
                _ if name.starts_with(PART_PREFIX) => {
                    *bytes.entry(id.to_owned()).or_default() += object.size;
                }
                _ => {}
            }
        }
        let unused = begun.difference(&used);
        Ok(unused.map(|id| (id.clone(), bytes.remove(id).unwrap_or_default())).collect())
    }

    /// Notes that a write refers to an upload, which then does not count for `uploads_max` any more.
    /// The upload stays until its time runs out: the write may fail and be sent again.
    pub(crate) async fn mark_used(&self, upload: &Finished) -> Result<()> {
        let path = format!("{}/{USED_MARK}", self.folder(&upload.id)?);
        self.shared.system.create(&path, Bytes::new()).await.map(|_| ())
    }

    /// The ids of uploads whose time has run out.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn expired(&self) -> Result<Vec<String>> {
        let mut expired = Vec::new();
        for (id, _) in self.list().await? {
            let path = format!("uploads/{id}/upload.json");
            let Some(bytes) = self.shared.system.get(&path).await? else { continue };
            let created: Option<Created> = serde_json::from_slice(&bytes).ok();
            if created.is_none_or(|created| self.is_expired(&created)) {
                expired.push(id);
            }
        }
        Ok(expired)
    }

    /// The digests of finished uploads that a write may still refer to.
    #[boxed]
    pub(crate) async fn digests(&self) -> Result<HashSet<BlobDigest>> {
        let mut digests = HashSet::new();
        for object in self.shared.system.list("uploads").await? {
            let Some(folder) = object.path.strip_suffix("/complete.json") else { continue };
            let id = folder.rsplit('/').next().unwrap_or_default();
            match self.check_open(id, folder).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            if let Some(finished) = self.read_finished(id, folder).await? {
                digests.extend(BlobDigest::parse(&finished.sha256));
            }
        }
        Ok(digests)
    }

    async fn read_finished(&self, id: &str, folder: &str) -> Result<Option<Finished>> {
        let Some(bytes) = self.shared.system.get(&format!("{folder}/complete.json")).await? else {
            return Ok(None);
        };
        let finished: Finished = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("upload `{id}` is damaged")).with_source(error)
        })?;
        Ok(Some(Finished { id: id.to_owned(), ..finished }))
    }

    /// The finished upload of that id.
    pub(crate) async fn finished(&self, id: &str) -> Result<Finished> {
        let folder = self.folder(id)?;
        self.check_open(id, &folder).await?;
        self.read_finished(id, &folder)
            .await?
            .ok_or_else(|| Error::invalid(format!("upload `{id}` is not complete")))
    }

    /// The bytes of a small finished upload.
    pub(crate) async fn read(&self, upload: &Finished) -> Result<Bytes> {
        let path = format!("{}/blob", self.folder(&upload.id)?);
        self.shared.system.get(&path).await?.ok_or_else(|| unknown(&upload.id))
    }

    /// Copies an object through this process.
    async fn copy_through(&self, from: &Path, to: &Path) -> Result<()> {
        let mut writer = PartWriter::begin(self.shared.root.store(), to).await?;
        let mut chunks = self.stream(from).await?;
        loop {
            let written = match chunks.next().await {
                None => return writer.finish().await,
                Some(Ok(chunk)) => writer.write(chunk).await,
                Some(Err(error)) => Err(error),
            };
            if let Err(error) = written {
                writer.abort().await;
                return Err(error);
            }
        }
    }

    /// Makes a finished upload a large blob of the lake and returns its path below the root.
    pub(crate) async fn keep_as_blob(&self, upload: &Finished) -> Result<String> {
        let relative = blob_path(&upload.sha256);
        self.keep_as(upload, &relative).await?;
        Ok(relative)
    }

    /// Gives the bytes of a finished upload a name of their own below the root, unless something is there.
    pub(crate) async fn keep_as(&self, upload: &Finished, relative: &str) -> Result<()> {
        let to = self.shared.root.path(relative);
        let store = self.shared.root.store();
        if store.head(&to).await.is_ok() {
            return Ok(());
        }
        let from = self.path(&format!("{}/blob", self.folder(&upload.id)?));
        if let (Some(from), Some(to)) =
            (self.shared.root.folder_of(&from)?, self.shared.root.folder_of(&to)?)
        {
            let linked = tokio::task::spawn_blocking(move || link(&from, &to)).await;
            return linked
                .map_err(|error| Error::internal("link task failed").with_source(error))?;
        }
        if upload.size > COPY_BYTES_MAX {
            return self.copy_through(&from, &to).await;
        }
        store
            .copy(&from, &to)
            .await
            .map_err(|error| from_object_store(error, "copy of an upload to its place"))
    }
}

/// Whether the bytes of an upload are those that its client says they are.
pub(crate) fn check_claim(id: &str, actual: &Checksums, claimed: &Claimed) -> Result<()> {
    if actual.like(claimed) == claimed.value() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{}` is {}, and upload `{id}` has {}; nothing was completed",
        claimed.name(),
        claimed.value(),
        actual.like(claimed)
    )))
}

fn part_path(folder: &str, offset: u64) -> String {
    format!("{folder}/part-{offset:020}")
}

/// Gives the bytes of an upload a second name, durably; they are synced already.
fn link(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let folder = to.parent().ok_or_else(|| Error::internal("a blob's path has no folder"))?;
    crate::durable::create_folder_durably(folder)?;
    match std::fs::hard_link(from, to) {
        Ok(()) => crate::durable::sync_file(folder),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(crate::lance_error::from_io(error, "link of a blob")),
    }
}

fn unknown(id: &str) -> Error {
    Error::not_found(format!("upload `{}` does not exist", shown(id)))
}

fn shown(id: &str) -> String {
    id.chars().take(64).flat_map(char::escape_debug).collect()
}

/// Writes one object in pieces; nothing is visible before `finish`.
struct PartWriter {
    upload: Box<dyn MultipartUpload>,
    buffer: BytesMut,
    size: u64,
}

impl PartWriter {
    async fn begin(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<Self> {
        let upload = store
            .put_multipart(path)
            .await
            .map_err(|error| from_object_store(error, "begin of an upload part"))?;
        Ok(PartWriter { upload, buffer: BytesMut::new(), size: 0 })
    }

    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.size += chunk.len() as u64;
        self.buffer.extend_from_slice(&chunk);
        while self.buffer.len() >= PIECE_BYTES {
            let piece = self.buffer.split_to(PIECE_BYTES).freeze();
            self.put(piece).await?;
        }
        Ok(())
    }

    async fn put(&mut self, piece: Bytes) -> Result<()> {
        self.upload
            .put_part(PutPayload::from_bytes(piece))
            .await
            .map_err(|error| from_object_store(error, "write of an upload part"))
    }

    async fn finish(mut self) -> Result<()> {
        if !self.buffer.is_empty() || self.size == 0 {
            let rest = self.buffer.split().freeze();
            self.put(rest).await?;
        }
        self.upload
            .complete()
            .await
            .map(|_| ())
            .map_err(|error| from_object_store(error, "end of an upload part"))
    }

    async fn abort(mut self) {
        if let Err(error) = self.upload.abort().await {
            // The pieces are invisible and the store or the upload's expiry removes them.
            tracing::info!(%error, "an aborted upload left pieces behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_lake;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_store_does_not_copy_goes_through_this_process() {
        let (lake, _folder) = test_lake::lake().await;
        let uploads = lake.uploads();
        let (from, to) = (uploads.path("tmp/from"), uploads.path("tmp/to"));
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES + 7).map(|at| (at % 251) as u8).collect();
        let store = uploads.shared.root.store();
        store.put(&from, bytes.clone().into()).await.unwrap();
        uploads.copy_through(&from, &to).await.unwrap();
        assert_eq!(store.get(&to).await.unwrap().bytes().await.unwrap(), bytes);
        let missing =
            uploads.copy_through(&uploads.path("tmp/none"), &uploads.path("tmp/new")).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(store.head(&uploads.path("tmp/new")).await.is_err());
    }
}
