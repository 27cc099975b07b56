//! What "acknowledged is durable" rests on for a local lake.
//!
//! Lance never calls fsync on local files. Files of upserts, deletions and indexes are written by its own
//! writer (a temporary file, then a rename), which bypasses the object store; manifests, tags and
//! transaction files go through it, and the data files of appends, overwrites and new tables through one
//! for them alone. So durability has two halves:
//!
//! 1. [`sync_transaction`] syncs every file that a transaction adds, then their folders, before the
//!    transaction is committed. `commit.rs` calls it; there is no other way to commit.
//! 2. [`DurableFileProvider`] gives lance a local store whose puts are synced, file and folder, before
//!    they return, so a manifest that is visible is on disk.
//!
//! A transaction's own file, which lance writes beside the manifest, is synced by
//! [`DurableCommitHandler`] between the two. On S3 all of this is nothing to do: a put that returned is durable.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_core::{Error, Result};
use lance::dataset::transaction::{Operation, Transaction};
use lance_io::object_store::providers::local::FileStoreProvider;
use lance_io::object_store::{ObjectStore, ObjectStoreParams, ObjectStoreProvider};
use lance_table::format::{Fragment, IndexMetadata, Manifest};
use lance_table::io::commit::{
    CommitError, CommitHandler, ConditionalPutCommitHandler, ManifestLocation,
    ManifestNamingScheme, ManifestWriter,
};
use object_store::local::LocalFileSystem;
use url::Url;

use crate::branches::note_merge;
use crate::lance_error::from_io;
use crate::local_parts::LocalParts;
use crate::materialized::note_view;
use crate::servers::Term;
use crate::stamps::{LeftOut, bound_stamps};

/// The storage option that asks for the store of data files, see `local_parts.rs`.
pub(crate) const DATA_FILES_OPTION: &str = "lakebed_data_files";
/// Lance bypasses a local store unless its prefix says that it is not simply the file system.
const DATA_FILES_PREFIX: &str = "file$lakebed_data_files";

/// Lance's local store with puts that are synced before they return, and the one for data files.
#[derive(Debug, Default)]
pub(crate) struct DurableFileProvider(FileStoreProvider);

fn is_for_data_files(options: Option<&HashMap<String, String>>) -> bool {
    options.is_some_and(|options| options.contains_key(DATA_FILES_OPTION))
}

#[async_trait::async_trait]
impl ObjectStoreProvider for DurableFileProvider {
    async fn new_store(
        &self,
        base_path: Url,
        params: &ObjectStoreParams,
    ) -> lance::Result<ObjectStore> {
        let mut store = self.0.new_store(base_path, params).await?;
        if is_for_data_files(params.storage_options()) {
            store.inner = Arc::new(LocalParts::new());
            store.store_prefix = DATA_FILES_PREFIX.to_owned();
            // Parts that grow would take more and more memory.
            store.use_constant_size_upload_parts = true;
        } else {
            store.inner = Arc::new(LocalFileSystem::new().with_fsync(true));
        }
        Ok(store)
    }

    fn extract_path(&self, url: &Url) -> lance::Result<object_store::path::Path> {
        self.0.extract_path(url)
    }

    fn calculate_object_store_prefix(
        &self,
        url: &Url,
        storage_options: Option<&HashMap<String, String>>,
    ) -> lance::Result<String> {
        if is_for_data_files(storage_options) {
            return Ok(DATA_FILES_PREFIX.to_owned());
        }
        self.0.calculate_object_store_prefix(url, storage_options)
    }
}

/// Commits by put-if-absent, with the transaction's own file synced before the manifest that names it.
#[derive(Debug)]
pub(crate) struct DurableCommitHandler {
    /// The earliest time that the version may bear, in nanoseconds since the Unix epoch. Lance stamps it
    /// from the system's clock, which may have stepped back.
    pub(crate) not_before_nanos: u128,
    /// The term that the commit is made in, of a table that is led.
    pub(crate) term: Option<Term>,
    /// What the stamps of rows may take of a manifest.
    pub(crate) stamps_bytes_max: u64,
    /// The stamps that the transaction does not carry along.
    pub(crate) left_out: Option<LeftOut>,
}

impl Default for DurableCommitHandler {
    fn default() -> Self {
        let (term, stamps_bytes_max, left_out) = (None, u64::MAX, None);
        DurableCommitHandler { not_before_nanos: 0, term, stamps_bytes_max, left_out }
    }
}

#[async_trait::async_trait]
impl CommitHandler for DurableCommitHandler {
    fn is_version_not_found_definitive(&self) -> bool {
        ConditionalPutCommitHandler.is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        ConditionalPutCommitHandler.propagate_commit_error_after_success()
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base_path: &object_store::path::Path,
        object_store: &ObjectStore,
        manifest_writer: ManifestWriter,
        naming_scheme: ManifestNamingScheme,
        transaction: Option<lance_table::format::Transaction>,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        manifest.timestamp_nanos = manifest.timestamp_nanos.max(self.not_before_nanos);
        if let Some(term) = self.term {
            term.check(manifest, base_path, object_store).await?;
        }
        note_merge(manifest, transaction.as_ref());
        note_view(manifest, transaction.as_ref());
        if let Some(left_out) = &self.left_out {
            left_out.put_back(manifest).map_err(CommitError::OtherError)?;
        }
        bound_stamps(manifest, self.stamps_bytes_max);
        if object_store.is_local()
            && let Some(name) = manifest.transaction_file.clone()
        {
            let path =
                object_store::path::Path::from_iter(base_path.parts().chain(
                    object_store::path::Path::from(format!("_transactions/{name}")).parts(),
                ));
            let file = LocalFileSystem::new()
                .path_to_filesystem(&path)
                .map_err(|error| CommitError::OtherError(error.into()))?;
            let synced = tokio::task::spawn_blocking(move || {
                sync_file(&file)?;
                file.parent().map_or(Ok(()), sync_file)
            });
            synced
                .await
                .map_err(|error| CommitError::OtherError(lance::Error::io(error.to_string())))?
                .map_err(|error| CommitError::OtherError(lance::Error::io(error.report())))?;
        }
        ConditionalPutCommitHandler
            .commit(
                manifest,
                indices,
                base_path,
                object_store,
                manifest_writer,
                naming_scheme,
                transaction,
            )
            .await
    }
}

/// The files and folders below a table's folder that a transaction adds.
fn paths_of<'a>(transaction: &Transaction, folder: &'a Path) -> Paths<'a> {
    let mut paths = Paths { folder, files: BTreeSet::new(), trees: BTreeSet::new() };
    match &transaction.operation {
        Operation::Append { fragments } | Operation::Overwrite { fragments, .. } => {
            paths.fragments(fragments)
        }
        Operation::Delete { updated_fragments, .. } => paths.fragments(updated_fragments),
        Operation::Update { updated_fragments, new_fragments, .. } => {
            paths.fragments(updated_fragments);
            paths.fragments(new_fragments);
        }
        Operation::Merge { fragments, .. } => paths.fragments(fragments),
        Operation::Rewrite { groups, rewritten_indices, .. } => {
            for group in groups {
                paths.fragments(&group.new_fragments);
            }
            for index in rewritten_indices {
                paths.trees.insert(folder.join("_indices").join(index.new_id.to_string()));
            }
        }
        Operation::CreateIndex { new_indices, .. } => paths.indices(new_indices),
        Operation::DataReplacement { replacements } => {
            for replacement in replacements {
                paths.data_file(&replacement.1.path);
            }
        }
        Operation::DataOverlay { groups } => {
            for overlay in groups.iter().flat_map(|group| &group.overlays) {
                paths.data_file(&overlay.data_file.path);
            }
        }
        Operation::Restore { .. }
        | Operation::ReserveFragments { .. }
        | Operation::Project { .. }
        | Operation::UpdateConfig { .. }
        | Operation::UpdateMemWalState { .. }
        | Operation::Clone { .. }
        | Operation::UpdateBases { .. }
        | Operation::Unknown { .. } => {}
    }
    paths
}

struct Paths<'a> {
    folder: &'a Path,
    files: BTreeSet<PathBuf>,
    /// Folders that are synced with everything in them.
    trees: BTreeSet<PathBuf>,
}

impl Paths<'_> {
    fn data_file(&mut self, path: &str) {
        let file = self.folder.join("data").join(path);
        // Blob sidecars lie in a folder beside the data file that has its name without the ending.
        self.trees.insert(file.with_extension(""));
        self.files.insert(file);
    }

    fn fragments(&mut self, fragments: &[Fragment]) {
        for fragment in fragments {
            for file in fragment.files.iter().filter(|file| file.base_id.is_none()) {
                self.data_file(&file.path);
            }
            if let Some(deletion) = &fragment.deletion_file
                && deletion.base_id.is_none()
            {
                let relative =
                    lance_table::io::deletion::relative_deletion_file_path(fragment.id, deletion);
                self.files.insert(self.folder.join(relative));
            }
        }
    }

    fn indices(&mut self, indices: &[IndexMetadata]) {
        for index in indices {
            self.trees.insert(self.folder.join("_indices").join(index.uuid.to_string()));
        }
    }
}

/// Syncs every file that `transaction` adds to the table in the local `folder`, then the folders that
/// hold them, up to the lake's `root`. Files already synced by an earlier commit are synced again,
/// which costs a system call each and writes nothing.
///
/// # Errors
/// `Unavailable` when a file cannot be synced: the transaction must then not be committed.
pub(crate) async fn sync_transaction(
    transaction: &Transaction,
    folder: &Path,
    root: &Path,
) -> Result<()> {
    let Paths { files, trees, .. } = paths_of(transaction, folder);
    let (folder, root) = (folder.to_path_buf(), root.to_path_buf());
    tokio::task::spawn_blocking(move || sync_paths(&folder, &root, files, trees))
        .await
        .map_err(|error| Error::internal("sync task failed").with_source(error))?
}

/// The same for the files of new fragments and indexes.
///
/// # Errors
/// `Unavailable` when a file cannot be synced.
pub(crate) async fn sync_new(
    fragments: &[Fragment],
    indices: &[IndexMetadata],
    folder: &Path,
    root: &Path,
) -> Result<()> {
    let mut paths = Paths { folder, files: BTreeSet::new(), trees: BTreeSet::new() };
    paths.fragments(fragments);
    paths.indices(indices);
    let Paths { files, trees, .. } = paths;
    let (folder, root) = (folder.to_path_buf(), root.to_path_buf());
    tokio::task::spawn_blocking(move || sync_paths(&folder, &root, files, trees))
        .await
        .map_err(|error| Error::internal("sync task failed").with_source(error))?
}

fn sync_paths(
    folder: &Path,
    root: &Path,
    files: BTreeSet<PathBuf>,
    trees: BTreeSet<PathBuf>,
) -> Result<()> {
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files {
        sync_file(&file)?;
        folders.extend(file.parent().map(Path::to_path_buf));
    }
    for tree in trees {
        let Ok(entries) = std::fs::read_dir(&tree) else { continue };
        for entry in entries {
            let entry = entry.map_err(|error| from_io(error, "list files to sync"))?;
            sync_file(&entry.path())?;
        }
        folders.extend(tree.parent().map(Path::to_path_buf));
        folders.insert(tree);
    }
    // Up to the root: the folders of a new database or namespace are entries that must last, too.
    let up = folder.ancestors().take_while(|above| above.starts_with(root));
    folders.extend(up.map(Path::to_path_buf));
    // Deepest first: an entry is only worth keeping once what it names is on disk.
    for folder in folders.iter().rev() {
        if folder.is_dir() {
            sync_file(folder)?;
        }
    }
    Ok(())
}

/// Syncs one file or folder.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| from_io(error, "sync of a written file"))
}

/// Makes a folder and syncs each folder on the way down that was missing.
pub(crate) fn create_folder_durably(path: &Path) -> Result<()> {
    let mut missing: Vec<&Path> = Vec::new();
    let mut next = Some(path);
    while let Some(folder) = next
        && !folder.is_dir()
    {
        missing.push(folder);
        next = folder.parent();
    }
    std::fs::create_dir_all(path).map_err(|error| from_io(error, "make a folder"))?;
    for folder in missing {
        sync_file(folder)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_file(parent)?;
        }
    }
    Ok(())
}
