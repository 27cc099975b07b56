//! Which files a table has, and which of them its versions name.
//!
//! Files are told apart by names that are nobody else's in a table: a data file's stem, an index's id, the
//! names of deletion and transaction files. So it does not matter through which base path a branch names
//! a file of its parent.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance_table::feature_flags::{FLAG_MIXED_DATA_FILE_VERSIONS, FLAG_UNSTABLE_DATA_OVERLAY_FILES};
use lance_table::format::{IndexMetadata, Manifest};
use lance_table::io::commit::{CommitHandler as _, ConditionalPutCommitHandler, ManifestLocation};
use lance_table::io::deletion::relative_deletion_file_path;
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::lance_error::{from_lance, from_object_store};

/// Manifests that are read at the same time.
const READS_AT_ONCE: usize = 16;
/// Reader flags whose files this module knows: those of every released reader, overlays, and data files of
/// several versions beside each other.
const KNOWN_READER_FLAGS: u64 =
    0b11_1111 | FLAG_UNSTABLE_DATA_OVERLAY_FILES | FLAG_MIXED_DATA_FILE_VERSIONS;

/// What a file of a table is, with the name by which versions know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum FileKind {
    /// A version, by its number.
    Manifest(u64),
    /// A data file, by its name without the ending.
    Data(String),
    /// A file of blobs beside a data file, by that one's name without the ending.
    Blob(String),
    /// A file of an index, by the index's id.
    Index(String),
    /// A file of deleted rows, by its name.
    Deletion(String),
    /// What a commit was, by its name.
    Transaction(String),
}

impl FileKind {
    /// What the file at `parts` below a table's or branch's folder is; nothing for what is not known.
    fn of(parts: &[&str]) -> Option<FileKind> {
        Some(match parts {
            ["_versions", name] => FileKind::Manifest(version_of(name)?),
            ["data", name] => FileKind::Data(name.strip_suffix(".lance")?.to_owned()),
            ["data", stem, _, ..] => FileKind::Blob((*stem).to_owned()),
            ["_indices", id, _, ..] => FileKind::Index((*id).to_owned()),
            ["_deletions", name] => FileKind::Deletion((*name).to_owned()),
            ["_transactions", name] => FileKind::Transaction((*name).to_owned()),
            _ => return None,
        })
    }

    /// What it is in a word.
    pub(super) fn label(&self) -> &'static str {
        match self {
            FileKind::Manifest(_) => "manifest",
            FileKind::Data(_) => "data",
            FileKind::Blob(_) => "blob",
            FileKind::Index(_) => "index",
            FileKind::Deletion(_) => "deletion",
            FileKind::Transaction(_) => "transaction",
        }
    }
}

/// The version of a manifest's file name. Lance counts down from the largest number, so that the newest
/// comes first in a listing; see `ManifestNamingScheme` in lance-table's `io/commit.rs`.
pub(crate) fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".manifest")?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    match digits.len() {
        20 => Some(u64::MAX - number),
        _ => Some(number),
    }
}

/// A file of a table.
#[derive(Debug, Clone)]
pub(super) struct StoredFile {
    pub(super) path: Path,
    pub(super) kind: FileKind,
    pub(super) size: u64,
    pub(super) modified_ms: i64,
}

/// The files of one branch that cleaning knows.
#[derive(Debug, Default)]
pub(super) struct TableFiles {
    pub(super) files: Vec<StoredFile>,
}

impl TableFiles {
    /// Lists the folder of a table or branch; the branches below a table's folder are not part of it.
    pub(super) async fn list(store: &Arc<dyn ObjectStore>, base: &Path) -> Result<TableFiles> {
        let depth = base.parts().count();
        let mut files = Vec::new();
        for folder in ["_versions", "data", "_indices", "_deletions", "_transactions"] {
            let folder = base.clone().join(folder);
            let mut listing = store.list(Some(&folder));
            let failed = |error| from_object_store(error, "listing of a table");
            while let Some(object) = listing.try_next().await.map_err(failed)? {
                let parts: Vec<_> = object.location.parts().skip(depth).collect();
                let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
                if let Some(kind) = FileKind::of(&parts) {
                    let modified_ms = object.last_modified.timestamp_millis();
                    let size = object.size;
                    files.push(StoredFile { path: object.location, kind, size, modified_ms });
                }
            }
        }
        Ok(TableFiles { files })
    }
}

/// Names of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    data: HashSet<String>,
    indices: HashSet<String>,
    deletions: HashSet<String>,
    transactions: HashSet<String>,
}

impl Names {
    /// Whether a file belongs to one of them; never for a manifest, which nobody names.
    pub(super) fn has(&self, kind: &FileKind) -> bool {
        match kind {
            FileKind::Manifest(_) => false,
            FileKind::Data(stem) | FileKind::Blob(stem) => self.data.contains(stem),
            FileKind::Index(id) => self.indices.contains(id),
            FileKind::Deletion(name) => self.deletions.contains(name),
            FileKind::Transaction(name) => self.transactions.contains(name),
        }
    }

    /// Whether both have a data file, its blobs or an index.
    pub(super) fn share(&self, other: &Names) -> bool {
        !self.data.is_disjoint(&other.data) || !self.indices.is_disjoint(&other.indices)
    }

    /// Those of the files that hold values of rows, without the ones that `other` has, too.
    pub(super) fn without(mut self, other: &Names) -> Names {
        self.data.retain(|name| !other.data.contains(name));
        self.indices.retain(|name| !other.indices.contains(name));
        self
    }

    /// Adds the name of one file.
    pub(super) fn insert(&mut self, kind: FileKind) {
        match kind {
            FileKind::Manifest(_) => false,
            FileKind::Data(stem) | FileKind::Blob(stem) => self.data.insert(stem),
            FileKind::Index(id) => self.indices.insert(id),
            FileKind::Deletion(name) => self.deletions.insert(name),
            FileKind::Transaction(name) => self.transactions.insert(name),
        };
    }

    pub(super) fn extend(&mut self, other: Names) {
        self.data.extend(other.data);
        self.indices.extend(other.indices);
        self.deletions.extend(other.deletions);
        self.transactions.extend(other.transactions);
    }

    fn add(&mut self, manifest: &Manifest, indices: &[IndexMetadata]) {
        for fragment in manifest.fragments.iter() {
            for file in fragment.referenced_lance_files() {
                let name = file.path.rsplit('/').next().unwrap_or(&file.path);
                let stem = name.strip_suffix(".lance").unwrap_or(name);
                if !self.data.contains(stem) {
                    self.data.insert(stem.to_owned());
                }
            }
            if let Some(deletion) = &fragment.deletion_file {
                let path = relative_deletion_file_path(fragment.id, deletion);
                let name = path.rsplit('/').next().unwrap_or(&path);
                self.deletions.insert(name.to_owned());
            }
        }
        self.indices.extend(indices.iter().map(|index| index.uuid.to_string()));
        self.transactions.extend(manifest.transaction_file.clone());
    }
}

/// The names in the manifests of a branch's folder: those of the doomed versions, and those of all others.
/// Versions that are committed meanwhile name what versions before them name, or files that are new.
///
/// # Errors
/// `NotImplemented` for a version of a newer format: its files may be of a kind that is not known here.
pub(super) async fn names_of(
    dataset: &Dataset,
    base: &Path,
    doomed: Option<&BTreeSet<u64>>,
) -> Result<(Names, Names)> {
    let store = dataset.object_store(None).await.map_err(from_lance)?;
    let locations: Vec<ManifestLocation> = ConditionalPutCommitHandler
        .list_manifest_locations(base, &store, false)
        .try_collect()
        .await
        .map_err(from_lance)?;
    let reads = locations.into_iter().map(|location| {
        let store = Arc::clone(&store);
        async move {
            let manifest = match read_manifest(&store, &location.path, location.size).await {
                Ok(manifest) => manifest,
                // Its branch is being cleaned, too.
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(from_lance(error)),
            };
            if manifest.reader_feature_flags & !KNOWN_READER_FLAGS != 0 {
                return Err(Error::new(
                    ErrorKind::NotImplemented,
                    format!("version {} uses what cleaning does not know", manifest.version),
                ));
            }
            let indices =
                read_manifest_indexes(&store, &location, &manifest).await.map_err(from_lance)?;
            Ok(Some((manifest, indices)))
        }
    });
    let mut manifests = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    let (mut gone, mut stays) = (Names::default(), Names::default());
    while let Some(read) = manifests.try_next().await? {
        let Some((manifest, indices)) = read else { continue };
        match doomed.is_some_and(|doomed| doomed.contains(&manifest.version)) {
            true => gone.add(&manifest, &indices),
            false => stays.add(&manifest, &indices),
        }
    }
    Ok((gone, stays))
}

/// The branches of a table but one; main is the branch without a name.
pub(super) async fn other_branches(
    dataset: &Dataset,
    but: Option<&str>,
) -> Result<Vec<Option<String>>> {
    let branches = dataset.list_branches().await.map_err(from_lance)?;
    let named = branches.into_keys().map(Some);
    Ok(std::iter::once(None).chain(named).filter(|name| name.as_deref() != but).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_known_have_a_kind() {
        let kind = |path: &str| FileKind::of(&path.split('/').collect::<Vec<_>>());
        assert_eq!(kind("_versions/18446744073709551608.manifest"), Some(FileKind::Manifest(7)));
        assert_eq!(kind("_versions/7.manifest"), Some(FileKind::Manifest(7)));
        assert_eq!(kind("data/ab.lance"), Some(FileKind::Data("ab".into())));
        assert_eq!(kind("data/ab/1.blob"), Some(FileKind::Blob("ab".into())));
        assert_eq!(kind("_indices/id/index.idx"), Some(FileKind::Index("id".into())));
        assert_eq!(kind("_deletions/0-1-2.arrow"), Some(FileKind::Deletion("0-1-2.arrow".into())));
        for unknown in [
            "_versions/latest_version_hint.json",
            "_versions/.manifest",
            "_versions/+7.manifest",
            "_versions/d1.manifest",
            "data/notes.txt",
            "data",
            "_refs/tags/gold.json",
            "tree/exp/data/ab.lance",
            "README.md",
        ] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}
