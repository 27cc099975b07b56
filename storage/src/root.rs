//! Where a lake lies: a local folder or a prefix of an S3 bucket.
//!
//! Holds the one lance session of the process (caches, stores) and the one object store for the lake's
//! own objects, so that every table shares them. Its registry knows only the scheme of the root: a
//! table that points anywhere else cannot be made to read it with our credentials.

use std::collections::HashMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use lakebed_core::{Error, Result};
use lance::Dataset;
use lance::dataset::ReadParams;
use lance::dataset::builder::DatasetBuilder;
use lance::session::Session;
use lance_io::object_store::providers::aws::AwsStoreProvider;
use lance_io::object_store::{
    ObjectStoreParams, ObjectStoreRegistry, StorageOptionsAccessor, WrappingObjectStore,
};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::durable::{DATA_FILES_OPTION, DurableFileProvider, create_folder_durably};
use crate::lance_error::{from_io, from_lance, from_object_store};
use crate::read_cache::ReadCache;

/// The lake's own folder for system state.
pub(crate) const SYSTEM_FOLDER: &str = "_lakebed";
/// The lake's own folder for large blobs.
pub(crate) const BLOBS_FOLDER: &str = "_blobs";

/// The root of a lake with the stores that reach it.
#[derive(Debug)]
pub(crate) struct Root {
    /// Without a trailing slash: an absolute path, or `s3://bucket/prefix`.
    uri: String,
    /// The folder, for a local lake.
    local: Option<PathBuf>,
    store: Arc<dyn ObjectStore>,
    /// The same store, for what only S3 can do.
    bucket: Option<Arc<AmazonS3>>,
    prefix: Path,
    session: Arc<Session>,
    storage_options: HashMap<String, String>,
    /// Where reads of a bucket are kept.
    read_cache: Option<Arc<ReadCache>>,
}

impl Root {
    /// Opens the root; a local folder that is missing is made.
    pub(crate) fn open(
        root: &str,
        storage_options: &HashMap<String, String>,
        index_cache_bytes: usize,
        metadata_cache_bytes: usize,
    ) -> Result<Root> {
        let registry = ObjectStoreRegistry::empty();
        let mut bucket = None;
        let (uri, local, store, prefix): (_, _, Arc<dyn ObjectStore>, _) =
            if root.starts_with("s3://") {
                registry.insert("s3", Arc::new(AwsStoreProvider));
                let (store, prefix) = open_s3(root, storage_options)?;
                let store = Arc::new(store);
                bucket = Some(Arc::clone(&store));
                (root.trim_end_matches('/').to_owned(), None, store, prefix)
            } else if root.contains("://") {
                let scheme = root.split("://").next().unwrap_or_default();
                return Err(Error::invalid(format!(
                    "the lake's root is a local folder or `s3://…`; `{scheme}://` is not supported"
                )));
            } else {
                registry.insert("file", Arc::new(DurableFileProvider::default()));
                let folder = open_folder(FsPath::new(root))?;
                let uri = folder.to_str().map(str::to_owned).ok_or_else(|| {
                    Error::invalid(format!("the path {} is not UTF-8", folder.display()))
                })?;
                let prefix = Path::from_absolute_path(&folder).map_err(|error| {
                    Error::invalid(format!("the path {uri} cannot be used")).with_source(error)
                })?;
                let store = LocalFileSystem::new().with_fsync(true);
                (uri, Some(folder), Arc::new(store), prefix)
            };
        let session =
            Arc::new(Session::new(index_cache_bytes, metadata_cache_bytes, Arc::new(registry)));
        let storage_options = storage_options.clone();
        let read_cache = None;
        Ok(Root { uri, local, store, bucket, prefix, session, storage_options, read_cache })
    }

    /// Keeps what is read from the bucket from here on.
    pub(crate) fn set_read_cache(&mut self, cache: ReadCache) {
        self.read_cache = Some(Arc::new(cache));
    }

    pub(crate) fn read_cache(&self) -> Option<&ReadCache> {
        self.read_cache.as_deref()
    }

    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    pub(crate) fn local(&self) -> Option<&FsPath> {
        self.local.as_deref()
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The bucket, for a lake in one.
    pub(crate) fn bucket(&self) -> Option<&AmazonS3> {
        self.bucket.as_deref()
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The object at `relative` below the root.
    pub(crate) fn path(&self, relative: &str) -> Path {
        // Not `Path::from` on the whole: it would encode the `~` of a numbered folder.
        let parts = relative.split('/').filter(|part| !part.is_empty());
        let mut path = self.prefix.clone();
        for part in parts {
            path = match Path::parse(part) {
                Ok(part) => Path::from_iter(path.parts().chain(part.parts())),
                Err(_) => path.join(part),
            };
        }
        path
    }

    /// What lance calls the thing at `relative` below the root.
    pub(crate) fn uri_of(&self, relative: &str) -> String {
        format!("{}/{relative}", self.uri)
    }

    /// Store parameters for whatever lance opens below the root.
    pub(crate) fn store_params(&self) -> ObjectStoreParams {
        let mut params = ObjectStoreParams::default();
        if let Some(cache) = &self.read_cache {
            params.object_store_wrapper = Some(Arc::clone(cache) as Arc<dyn WrappingObjectStore>);
        }
        if !self.storage_options.is_empty() {
            params.storage_options_accessor = Some(Arc::new(
                StorageOptionsAccessor::with_static_options(self.storage_options.clone()),
            ));
        }
        params
    }

    /// Store parameters for writing data files below the root.
    pub(crate) fn data_file_params(&self) -> ObjectStoreParams {
        if self.local.is_none() {
            return self.store_params();
        }
        let option = [(DATA_FILES_OPTION.to_owned(), "true".to_owned())];
        ObjectStoreParams {
            storage_options_accessor: Some(Arc::new(StorageOptionsAccessor::with_static_options(
                option.into(),
            ))),
            ..Default::default()
        }
    }

    /// `dataset` with the store that its data files are to be written through.
    pub(crate) async fn writable(&self, dataset: &Dataset) -> Result<Arc<Dataset>> {
        let params = self.data_file_params();
        let registry = self.session.store_registry();
        let location = lance_io::object_store::uri_to_url(dataset.uri()).map_err(from_lance)?;
        let store = registry.get_store(location, &params).await.map_err(from_lance)?;
        Ok(Arc::new(dataset.with_object_store(store, Some(params))))
    }

    /// A builder that opens the dataset at `location` with our session and stores.
    pub(crate) fn dataset(&self, location: &str) -> DatasetBuilder {
        DatasetBuilder::from_uri(self.uri_of(location)).with_read_params(ReadParams {
            store_options: Some(self.store_params()),
            session: Some(self.session.clone()),
            ..Default::default()
        })
    }

    /// The local folder of an object store path, for a local lake.
    pub(crate) fn folder_of(&self, path: &Path) -> Result<Option<PathBuf>> {
        if self.local.is_none() {
            return Ok(None);
        }
        LocalFileSystem::new()
            .path_to_filesystem(path)
            .map(Some)
            .map_err(|error| from_object_store(error, "path of a table"))
    }
}

fn open_folder(root: &FsPath) -> Result<PathBuf> {
    let absolute =
        std::path::absolute(root).map_err(|error| from_io(error, "find the lake's root"))?;
    create_folder_durably(&absolute)?;
    absolute.canonicalize().map_err(|error| from_io(error, "find the lake's root"))
}

fn open_s3(root: &str, options: &HashMap<String, String>) -> Result<(AmazonS3, Path)> {
    let url = url::Url::parse(root)
        .map_err(|error| Error::invalid(format!("`{root}` is no S3 location: {error}")))?;
    let mut builder = AmazonS3Builder::from_env().with_url(root);
    for (key, value) in options {
        let key = key.parse::<AmazonS3ConfigKey>().map_err(|error| {
            Error::invalid(format!("storage option `{key}` is not known")).with_source(error)
        })?;
        builder = builder.with_config(key, value);
    }
    let store = builder.build().map_err(|error| {
        Error::invalid(format!("the S3 store of `{root}` cannot be set up")).with_source(error)
    })?;
    Ok((store, Path::from(url.path())))
}
