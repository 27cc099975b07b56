//! Large blobs and files of models on their way: each once, under its digest, which its bytes are checked against.

use std::collections::{BTreeSet, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, StringArray, StructArray};
use async_recursion::async_recursion as boxed;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance_table::format::Fragment;
use object_store::ObjectStoreExt as _;

use super::copier::{COPIES, Copy};
use super::history::manifest;
use super::listing::{Found, listing, sizes};
use super::table::{TablePlan, Transfer};
use crate::blob::blob_path;
use crate::blob_claims::WriteClaims;
use crate::blob_digest::BlobDigest;
use crate::lance_error::{from_lance, from_object_store};
use crate::manifest_file::Move;
use crate::models::MODEL_FILES;
use crate::root::{BLOBS_FOLDER, SYSTEM_FOLDER};

/// Rows whose descriptors are looked at at once.
const ROWS_AT_ONCE: usize = 8_192;

impl Transfer<'_> {
    /// Copies every blob of the source that the target lacks.
    #[boxed]
    pub(super) async fn copy_all_blobs(&self) -> Result<()> {
        self.copy_by_digest(BLOBS_FOLDER).await
    }

    /// Copies every file of a registered model that the target lacks.
    #[boxed]
    pub(super) async fn copy_model_files(&self) -> Result<()> {
        self.copy_by_digest(&format!("{SYSTEM_FOLDER}/{MODEL_FILES}")).await
    }

    async fn copy_by_digest(&self, folder: &str) -> Result<()> {
        let there = sizes(self.to, folder).await?;
        let mut running = FuturesUnordered::new();
        let mut found = listing(self.from, folder);
        while let Some(blob) = found.try_next().await? {
            if there.get(&blob.path) == Some(&blob.size) {
                self.progress.kept();
                continue;
            }
            if running.len() >= COPIES {
                running.next().await.transpose()?;
            }
            running.push(self.copy_blob(blob));
        }
        running.try_collect().await
    }

    async fn copy_blob(&self, blob: Found) -> Result<()> {
        let sha256 = digest_of(&blob.path).map(str::to_owned);
        let copy = Copy {
            from: self.from.path(&blob.path),
            to: self.to.path(&blob.path),
            size: blob.size,
            sha256,
        };
        match self.copier.copy(copy).await {
            // Nobody referred to it, so it was deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Copies the blobs that the versions of a table refer to which are about to be copied. Where the
    /// target is a lake that others may be working with, they are claimed.
    #[boxed]
    pub(super) async fn copy_blobs_of(
        &self,
        plan: &TablePlan,
        claims: Option<&WriteClaims>,
    ) -> Result<()> {
        let mut digests = BTreeSet::new();
        let mut seen = HashSet::new();
        // Where the source lies, whatever its manifests say.
        let moves = [Move { from: self.made_at.to_owned(), to: self.from.uri().to_owned() }];
        for branch in &plan.branches {
            let folder = plan.folder(branch);
            for number in &branch.steps.copy {
                let name = branch.versions.get(number).map(String::as_str).unwrap_or_default();
                let Some(manifest) = manifest(self.from, &folder, name).await? else { continue };
                let dataset = self
                    .from
                    .dataset(&folder)
                    .with_serialized_manifest(&manifest.message(&moves))
                    .map_err(from_lance)?
                    .load()
                    .await
                    .map_err(from_lance)?;
                add_digests(&dataset, &mut seen, &mut digests).await?;
            }
        }
        let mut running = FuturesUnordered::new();
        for digest in digests {
            if let (Some(claims), Some(digest)) = (claims, BlobDigest::parse(&digest)) {
                claims.claim(digest).await?;
            }
            let path = blob_path(&digest);
            let read = |error| from_object_store(error, &format!("copy of `{path}`"));
            let size = match self.from.store().head(&self.from.path(&path)).await {
                Ok(meta) => meta.size,
                Err(object_store::Error::NotFound { .. }) => {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("`{}` refers to `{path}`, which is missing", plan.table.id),
                    ));
                }
                Err(error) => return Err(read(error)),
            };
            match self.to.store().head(&self.to.path(&path)).await {
                Ok(meta) if meta.size == size => self.progress.kept(),
                _ => {
                    if running.len() >= COPIES {
                        running.next().await.transpose()?;
                    }
                    running.push(self.copy_blob(Found { path, size }));
                }
            }
        }
        running.try_collect().await
    }
}

/// The digest that a path below `_blobs/` says.
pub(crate) fn digest_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let is_digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_digest && path.contains("/sha256/")).then_some(name)
}

/// Adds the digests of the large blobs that a version refers to, in fragments that were not seen.
async fn add_digests(
    dataset: &Dataset,
    seen: &mut HashSet<u64>,
    digests: &mut BTreeSet<String>,
) -> Result<()> {
    let fields = &dataset.schema().fields;
    let columns: Vec<String> =
        fields.iter().filter(|field| field.is_blob()).map(|field| field.name.clone()).collect();
    let unseen: Vec<Fragment> = dataset
        .fragments()
        .iter()
        .filter(|fragment| seen.insert(what_it_holds(fragment)))
        .cloned()
        .collect();
    if columns.is_empty() || unseen.is_empty() {
        return Ok(());
    }
    let mut scanner = dataset.scan();
    scanner.with_fragments(unseen);
    scanner.project(&columns).map_err(from_lance)?;
    scanner.batch_size(ROWS_AT_ONCE);
    let mut batches = scanner.try_into_stream().await.map_err(from_lance)?;
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        for column in batch.columns() {
            let Some(descriptors) = column.as_struct_opt() else { continue };
            for uri in uris(descriptors).into_iter().flatten().flatten() {
                let digest = uri.rsplit('/').next().unwrap_or_default();
                if digest_of(&format!("/sha256/{digest}")).is_some() {
                    digests.insert(digest.to_owned());
                }
            }
        }
    }
    Ok(())
}

/// Differs between fragments that may refer to different blobs.
pub(crate) fn what_it_holds(fragment: &Fragment) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    for file in fragment.referenced_lance_files() {
        file.path.hash(&mut hasher);
        file.fields.hash(&mut hasher);
    }
    // A later version may have fewer rows of the same files, and one that was restored more again.
    format!("{:?}", fragment.deletion_file).hash(&mut hasher);
    hasher.finish()
}

/// What the cells of a blob column refer to outside of the table's files.
pub(crate) fn uris(descriptors: &StructArray) -> Option<&StringArray> {
    descriptors.column_by_name("blob_uri")?.as_any().downcast_ref::<StringArray>()
}
