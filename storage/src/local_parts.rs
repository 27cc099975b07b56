//! The store that the data files of a local lake are written through.
//!
//! Why it exists: lance's own writer for local files hands on one piece of 2 MiB at a time and encodes
//! nothing while that is written, and all of the file is still in memory when it is synced. Through a
//! store a few parts are under way while the next page is encoded, and syncing begins while the file
//! grows, so little is left to do at its end.
//!
//! ```text
//!   lance's writer ──► parts of 5 MiB ──► staged file `NAME#N` ──► rename to NAME
//!                                           └── synced every 32 MiB, beside the writing
//! ```
//!
//! What always holds: a file has its name only once it is complete, and only if no sync of it failed so
//! far; a part that fails is told to lance's writer, which then gives the file up. It is not durable by
//! then: `durable.rs` syncs it, as every file.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// Bytes after which a file that is being written is synced.
const SYNC_EVERY_BYTES: u64 = 32 << 20;
/// Other files of the same name that may be staged; names of data files are random.
const STAGED_MAX: u32 = 1_000;

/// A local file system whose large files are synced while they are written.
#[derive(Debug)]
pub(crate) struct LocalParts(LocalFileSystem);

impl LocalParts {
    pub(crate) fn new() -> Self {
        LocalParts(LocalFileSystem::new())
    }
}

impl std::fmt::Display for LocalParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalParts({})", self.0)
    }
}

#[async_trait::async_trait]
impl ObjectStore for LocalParts {
    async fn put_opts(
        &self,
        location: &object_store::path::Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &object_store::path::Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.0.path_to_filesystem(location)?;
        let (file, staged) = blocking({
            let target = target.clone();
            move || stage(&target)
        })
        .await?;
        let parts = Parts { file, target, early: Mutex::default(), syncing: Mutex::default() };
        Ok(Box::new(Upload { parts: Arc::new(parts), staged: Some(staged), offset: 0 }))
    }

    async fn get_opts(
        &self,
        location: &object_store::path::Path,
        options: GetOptions,
    ) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<object_store::path::Path>>,
    ) -> BoxStream<'static, Result<object_store::path::Path>> {
        self.0.delete_stream(locations)
    }

    fn list(
        &self,
        prefix: Option<&object_store::path::Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&object_store::path::Path>,
    ) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &object_store::path::Path,
        to: &object_store::path::Path,
        options: CopyOptions,
    ) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &object_store::path::Path,
        to: &object_store::path::Path,
        options: RenameOptions,
    ) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

/// A new file beside `target`, under a name that listings leave out.
fn stage(target: &Path) -> std::io::Result<(File, PathBuf)> {
    let mut number = 1;
    loop {
        let mut name = target.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match OpenOptions::new().read(true).write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < STAGED_MAX => {
                number += 1;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = target.parent().ok_or(error)?;
                std::fs::create_dir_all(folder)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
struct Upload {
    parts: Arc<Parts>,
    /// The staged file; none once it has its name or is given up.
    staged: Option<PathBuf>,
    offset: u64,
}

#[derive(Debug)]
struct Parts {
    file: File,
    target: PathBuf,
    early: Mutex<Early>,
    /// Held by whoever syncs.
    syncing: Mutex<()>,
}

/// The syncing beside the writing.
#[derive(Debug, Default)]
struct Early {
    /// Bytes written since the last sync began.
    unsynced: u64,
    /// Whether a sync runs or is about to.
    is_running: bool,
    /// A sync that failed. The system tells an error once, so the one at the end may not show it.
    failed: Option<std::io::Error>,
}

impl Parts {
    fn write(self: Arc<Self>, data: &PutPayload, mut offset: u64) -> std::io::Result<()> {
        for piece in data {
            self.file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.unsynced += data.content_length() as u64;
        if early.unsynced < SYNC_EVERY_BYTES || early.is_running {
            return Ok(());
        }
        early.unsynced = 0;
        early.is_running = true;
        drop(early);
        tokio::task::spawn_blocking(move || self.sync());
        Ok(())
    }

    fn sync(&self) {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = self.file.sync_data();
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.is_running = false;
        if let Err(error) = synced {
            early.failed.get_or_insert(error);
        }
    }
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += data.content_length() as u64;
        let parts = Arc::clone(&self.parts);
        blocking(move || parts.write(&data, offset)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(given_up)?;
        let parts = Arc::clone(&self.parts);
        let named = blocking(move || {
            parts.sync();
            let failed = parts.early.lock().unwrap_or_else(PoisonError::into_inner).failed.take();
            let named = match failed {
                Some(error) => Err(error),
                None => std::fs::rename(&staged, &parts.target),
            };
            named.inspect_err(|_| remove(&staged))
        });
        named.await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take().ok_or_else(given_up)?;
        blocking(move || std::fs::remove_file(staged)).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&staged))),
                Err(_) => remove(&staged),
            }
        }
    }
}

/// Removes a staged file as far as that works: it has no name that anybody reads.
fn remove(staged: &Path) {
    if let Err(error) = std::fs::remove_file(staged) {
        tracing::info!(%error, file = %staged.display(), "a staged file stays behind");
    }
}

fn given_up() -> object_store::Error {
    failed(std::io::Error::other("the file was completed or given up before"))
}

fn failed(error: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalParts", source: Box::new(error) }
}

async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await?.map_err(failed)
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;
    use object_store::path::Path as StorePath;

    use super::*;

    fn store_path(file: &Path) -> StorePath {
        StorePath::from_absolute_path(file).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_file_has_its_name_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data/a.lance");
        let store = LocalParts::new();
        let mut upload = store.put_multipart(&store_path(&target)).await.unwrap();
        let part = |n: u8| vec![n; 5 << 20];
        let writing: Vec<UploadPart> = (0..20).map(|n| upload.put_part(part(n).into())).collect();
        for part in writing {
            part.await.unwrap();
        }
        assert_eq!(names(target.parent().unwrap()), ["a.lance#1"]);
        upload.complete().await.unwrap();
        assert_eq!(names(target.parent().unwrap()), ["a.lance"]);
        let written = std::fs::read(&target).unwrap();
        assert!(written == (0..20).flat_map(part).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = store_path(&folder.path().join("a.lance"));
        let store = LocalParts::new();
        let mut upload = store.put_multipart(&target).await.unwrap();
        upload.put_part(vec![1; 10].into()).await.unwrap();
        upload.abort().await.unwrap();
        assert!(names(folder.path()).is_empty());
        assert!(upload.complete().await.is_err());
        drop(store.put_multipart(&target).await.unwrap());
        while !names(folder.path()).is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_sync_that_failed_on_the_way_fails_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.lance");
        let (file, staged) = stage(&target).unwrap();
        let early = Early { failed: Some(std::io::Error::other("disk")), ..Early::default() };
        let parts = Parts {
            file,
            target: target.clone(),
            early: Mutex::new(early),
            syncing: Mutex::default(),
        };
        let mut upload = Upload { parts: Arc::new(parts), staged: Some(staged), offset: 0 };
        assert!(upload.complete().await.unwrap_err().to_string().contains("disk"));
        assert!(names(folder.path()).is_empty());
    }
}
