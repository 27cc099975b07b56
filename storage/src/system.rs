//! Small durable objects under `_lakebed/`: keys, audit, the catalogue, write ids.
//!
//! Nothing here is ever half written: a local put goes to a temporary file that is synced, renamed, and
//! its folder synced; a put to S3 is atomic by itself.

use async_recursion::async_recursion as boxed;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use crate::lance_error::{from_io, from_object_store};

/// How often, and how far apart at first, an object is created while the bucket says that it is there,
/// and it is not.
const CREATE_TRIES_MAX: u32 = 5;
const CREATE_WAIT: Duration = Duration::from_millis(50);

/// One object of a listing.
#[derive(Debug, Clone)]
pub struct SystemObject {
    /// Its path below `_lakebed/`.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// The bytes of an object and which state of it they are.
#[derive(Debug, Clone)]
pub(crate) struct StoredObject {
    pub(crate) bytes: Bytes,
    state: UpdateVersion,
}

/// The system's own state of one lake. Every write is durable when it returns.
#[derive(Debug, Clone)]
pub struct SystemStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Where it lies, on a local lake.
    folder: Option<PathBuf>,
}

impl SystemStore {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path, folder: Option<PathBuf>) -> Self {
        SystemStore { store, prefix, folder }
    }

    fn full(&self, path: &str) -> Result<Path> {
        let path = Path::parse(path).map_err(|error| {
            Error::invalid(format!("`{path}` is no system path")).with_source(error)
        })?;
        Ok(Path::from_iter(self.prefix.parts().chain(path.parts())))
    }

    /// The bytes at `path`, or nothing.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let result = match self.store.get(&self.full(path)?).await {
            Ok(result) => result.bytes().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(from_object_store(error, &format!("read of `{path}`"))),
        }
    }

    /// Some of the bytes at `path`, or nothing. There have to be so many.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        match self.store.get_range(&self.full(path)?, range).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(from_object_store(error, &format!("read of `{path}`"))),
        }
    }

    /// What is at `path`, to be replaced by [`SystemStore::replace`], or nothing.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub(crate) async fn get_stored(&self, path: &str) -> Result<Option<StoredObject>> {
        let result = match self.store.get(&self.full(path)?).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(from_object_store(error, &format!("read of `{path}`"))),
        };
        let (e_tag, version) = (result.meta.e_tag.clone(), result.meta.version.clone());
        match result.bytes().await {
            Ok(bytes) => Ok(Some(StoredObject { bytes, state: UpdateVersion { e_tag, version } })),
            Err(error) => Err(from_object_store(error, &format!("read of `{path}`"))),
        }
    }

    /// Replaces what is at `path` if it is still `stored`; false when it is not. On a local lake, which
    /// one process holds, the caller sees to that nobody else replaces it meanwhile; in a bucket, that no
    /// two callers ever write the same `bytes`.
    ///
    /// # Errors
    /// `Unavailable` when the store did not do it, `CommitUnknown` when nobody knows.
    #[boxed]
    pub(crate) async fn replace(
        &self,
        path: &str,
        stored: &StoredObject,
        bytes: Bytes,
    ) -> Result<bool> {
        if self.folder.is_some() {
            return self.put(path, bytes).await.map(|()| true);
        }
        let mode = PutMode::Update(stored.state.clone());
        let options = PutOptions { mode, ..Default::default() };
        match self.store.put_opts(&self.full(path)?, bytes.clone().into(), options).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. },
            ) => Ok(self.stored_after(path).await? == Some(bytes)),
            Err(error) => self.outcome_of(path, &bytes, error).await,
        }
    }

    /// Writes `bytes` where nothing is; false when something else is there already. In a bucket the same
    /// bytes count as this call's own: where two callers may want the same object and only one may have
    /// it, the bytes have to say who wrote them.
    ///
    /// # Errors
    /// `Unavailable` when the store did not do it; `CommitUnknown` when nobody knows.
    #[boxed]
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<bool> {
        let full = self.full(path)?;
        let mut tries = 1;
        loop {
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            let error = match self.store.put_opts(&full, bytes.clone().into(), options).await {
                Ok(_) => return Ok(true),
                Err(error) => error,
            };
            let is_taken = matches!(
                error,
                object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }
            );
            if is_taken && self.folder.is_some() {
                return Ok(false);
            }
            if !is_taken {
                return self.outcome_of(path, &bytes, error).await;
            }
            match self.stored_after(path).await? {
                Some(found) => return Ok(found == bytes),
                // A bucket says the same (409) while another put of the object is under way.
                None if tries < CREATE_TRIES_MAX => tokio::time::sleep(CREATE_WAIT * tries).await,
                None => return Err(from_object_store(error, &format!("write of `{path}`"))),
            }
            tries += 1;
        }
    }

    /// What a bucket holds at `path` after a conditional put there. One that was done and whose answer
    /// did not arrive, or said otherwise, is sent again by the store's client and then meets itself.
    async fn stored_after(&self, path: &str) -> Result<Option<Bytes>> {
        self.get(path).await.map_err(|error| unknown_outcome(path, error.report()))
    }

    /// What became of a conditional put that failed.
    async fn outcome_of(
        &self,
        path: &str,
        bytes: &Bytes,
        error: object_store::Error,
    ) -> Result<bool> {
        // A local put that failed is not looked at: what is there may not be durable.
        if self.folder.is_none() {
            match self.get(path).await {
                Ok(found) if found.as_ref() == Some(bytes) => return Ok(true),
                Ok(_) => {}
                Err(_) => return Err(unknown_outcome(path, error)),
            }
        }
        Err(from_object_store(error, &format!("write of `{path}`")))
    }

    /// Replaces what is at `path`, atomically.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; either value may be there then.
    #[boxed]
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.store
            .put(&self.full(path)?, bytes.into())
            .await
            .map(|_| ())
            .map_err(|error| from_object_store(error, &format!("write of `{path}`")))
    }

    /// The same, where nobody else writes to this path: takes away what a killed process left beside it, which
    /// no listing shows.
    ///
    /// # Errors
    /// As [`SystemStore::put`].
    pub(crate) async fn put_alone(&self, path: &str, bytes: Bytes) -> Result<()> {
        if let Some(folder) = &self.folder {
            let parts = Path::parse(path).map_err(|error| {
                Error::invalid(format!("`{path}` is no system path")).with_source(error)
            })?;
            let file =
                parts.parts().fold(folder.clone(), |folder, part| folder.join(part.as_ref()));
            let _ = tokio::fs::remove_file(staged(&file)).await;
        }
        self.put(path, bytes).await
    }

    /// The objects below `prefix`, sorted by path.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list(&self, prefix: &str) -> Result<Vec<SystemObject>> {
        let depth = self.prefix.parts().count();
        let mut objects: Vec<SystemObject> = self
            .store
            .list(Some(&self.full(prefix)?))
            .map_ok(|meta| SystemObject {
                path: Path::from_iter(meta.location.parts().skip(depth)).to_string(),
                size: meta.size,
                modified_ms: meta.last_modified.timestamp_millis(),
            })
            .try_collect()
            .await
            .map_err(|error| from_object_store(error, &format!("listing of `{prefix}`")))?;
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// Deletes the object; one that is missing is fine.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&self.full(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(error, &format!("deletion of `{path}`"))),
        }
    }

    /// Deletes everything below a folder, also what a put left half done when its process was killed,
    /// which no listing shows. A folder that is missing is fine.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn delete_below(&self, path: &str) -> Result<()> {
        let Some(folder) = &self.folder else {
            for object in self.list(path).await? {
                self.delete(&object.path).await?;
            }
            return Ok(());
        };
        // By its parts, so that no path leads out of the system's folder.
        let inside = Path::parse(path).map_err(|error| {
            Error::invalid(format!("`{path}` is no system path")).with_source(error)
        })?;
        let folder = inside.parts().fold(folder.clone(), |folder, part| folder.join(part.as_ref()));
        match tokio::fs::remove_dir_all(folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(from_io(error, "delete a folder of the system"))
            }
            _ => Ok(()),
        }
    }
}

/// Where a file lies until it is whole: a name that no listing shows, and the first that the local store takes.
pub(crate) fn staged(target: &FsPath) -> PathBuf {
    let mut staged = target.as_os_str().to_owned();
    staged.push("#1");
    PathBuf::from(staged)
}

fn unknown_outcome(
    path: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let message = format!("whether the write of `{path}` was done is not known");
    Error::new(ErrorKind::CommitUnknown, message).with_source(source)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_put_in_a_bucket_that_meets_itself_is_done() {
        let system = SystemStore::new(Arc::new(InMemory::new()), Path::default(), None);
        let (mine, other) = (Bytes::from_static(b"mine"), Bytes::from_static(b"other"));
        assert!(system.create("a", mine.clone()).await.unwrap());
        assert!(system.create("a", mine.clone()).await.unwrap());
        assert!(!system.create("a", other.clone()).await.unwrap());
        let stored = system.get_stored("a").await.unwrap().unwrap();
        assert!(system.replace("a", &stored, other.clone()).await.unwrap());
        assert!(system.replace("a", &stored, other.clone()).await.unwrap());
        assert!(!system.replace("a", &stored, mine).await.unwrap());
        assert_eq!(system.get("a").await.unwrap(), Some(other));
    }

    #[tokio::test]
    async fn a_local_put_takes_nothing_for_its_own() {
        let folder = Some(PathBuf::from("."));
        let system = SystemStore::new(Arc::new(InMemory::new()), Path::default(), folder);
        assert!(system.create("a", Bytes::from_static(b"1")).await.unwrap());
        assert!(!system.create("a", Bytes::from_static(b"1")).await.unwrap());
    }
}
