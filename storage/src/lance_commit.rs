//! Commits that lance builds itself, of a compaction or of an index that was caught up with: through a
//! handler that keeps what every commit of the lake keeps. What lance wrote for indexes is synced before
//! the manifest that names it, and times rise.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use lakebed_core::Result;
use lance::Dataset;
use lance::index::DatasetIndexExt as _;
use lance::session::Session;
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexMetadata, Manifest};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, ManifestNamingScheme, ManifestWriter,
};
use uuid::Uuid;

use crate::commit::TIME_STEP_NANOS;
use crate::durable::{DurableCommitHandler, sync_new};
use crate::lance_error::from_lance;
use crate::servers::Term;
use crate::table::Branch;

/// What a session for one commit may remember, of indexes and of metadata.
const APART_CACHE_BYTES: usize = 16 << 20;

impl Branch {
    /// Runs `commit` on the newest version, under the mutation lock that the caller holds; what it gave,
    /// and the newest version after it, which requests see from then on. The caller syncs `_versions`.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; the inner result is that of `commit`.
    pub(crate) async fn commit_by_lance(
        &self,
        latest: &Dataset,
        commit: impl for<'a> FnOnce(&'a mut Dataset) -> BoxFuture<'a, lance::Result<()>> + Send,
    ) -> Result<(Result<()>, Arc<Dataset>)> {
        let folder = self.shared.root.folder_of(&latest.branch_location().path)?;
        let indices = latest.load_indices().await.map_err(from_lance)?;
        let not_before = latest.manifest().timestamp_nanos.saturating_add(TIME_STEP_NANOS);
        let handler = SyncingCommitHandler {
            not_before_nanos: Mutex::new(not_before),
            term: self.term().map(|number| Term { number, is_rebuilt: false }),
            known_indices: indices.iter().map(|index| index.uuid).collect(),
            folder,
            root: self.shared.root.local().map(PathBuf::from),
            stamps_bytes_max: self.shared.limits.stamps_bytes_max,
        };
        let is_inheriting = indices.iter().any(|index| index.base_id.is_some());
        let mut dataset = self.open_with(Arc::new(handler), is_inheriting).await?;
        let outcome = commit(&mut dataset).await.map_err(from_lance);
        // Also after a failure: lance may have made a version before it failed.
        let newest = Arc::new(self.open_latest().await?);
        self.publish(Arc::clone(&newest)).await;
        Ok((outcome, newest))
    }

    /// The newest version, which commits through `handler`. `is_apart` keeps what lance remembers of the
    /// commit from everybody else.
    async fn open_with(&self, handler: Arc<dyn CommitHandler>, is_apart: bool) -> Result<Dataset> {
        let root = &self.shared.root;
        let mut builder = root.dataset(&self.entry.location).with_commit_handler(handler);
        if is_apart {
            let registry = root.session().store_registry();
            let session = Session::new(APART_CACHE_BYTES, APART_CACHE_BYTES, registry);
            builder = builder.with_session(Arc::new(session));
        }
        if let Some(branch) = &self.name {
            builder = builder.with_branch(branch, None);
        }
        builder.load().await.map_err(from_lance)
    }
}

#[derive(Debug)]
struct SyncingCommitHandler {
    not_before_nanos: Mutex<u128>,
    term: Option<Term>,
    known_indices: HashSet<Uuid>,
    folder: Option<PathBuf>,
    root: Option<PathBuf>,
    stamps_bytes_max: u64,
}

#[async_trait::async_trait]
impl CommitHandler for SyncingCommitHandler {
    fn is_version_not_found_definitive(&self) -> bool {
        DurableCommitHandler::default().is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        DurableCommitHandler::default().propagate_commit_error_after_success()
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
        // A branch's indexes may lie in the folder of the table that it came from. Lance keeps saying so
        // of one that it wrote anew, in the branch's own folder.
        let mut indices = indices;
        for index in indices.iter_mut().flatten() {
            if !self.known_indices.contains(&index.uuid) {
                index.base_id = None;
            }
        }
        if let (Some(folder), Some(root)) = (&self.folder, &self.root) {
            let all = indices.iter().flatten();
            let new = all.filter(|index| !self.known_indices.contains(&index.uuid));
            let new: Vec<IndexMetadata> = new.cloned().collect();
            sync_new(&[], &new, folder, root)
                .await
                .map_err(|error| CommitError::OtherError(lance::Error::io(error.report())))?;
        }
        let not_before_nanos =
            *self.not_before_nanos.lock().unwrap_or_else(PoisonError::into_inner);
        let (term, stamps_bytes_max) = (self.term, self.stamps_bytes_max);
        let left_out = None;
        let committed = DurableCommitHandler { not_before_nanos, term, stamps_bytes_max, left_out }
            .commit(
                manifest,
                indices,
                base_path,
                object_store,
                manifest_writer,
                naming_scheme,
                transaction,
            )
            .await?;
        *self.not_before_nanos.lock().unwrap_or_else(PoisonError::into_inner) =
            manifest.timestamp_nanos.saturating_add(TIME_STEP_NANOS);
        Ok(committed)
    }
}
