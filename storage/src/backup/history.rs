//! The versions of one branch in two places, and what makes the second like the first.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt as _;
use lakebed_core::{Error, ErrorKind, Result};
use lance_table::io::commit::ManifestNamingScheme;
use object_store::ObjectStoreExt as _;

use super::listing::listing;
use crate::lance_error::from_object_store;
use crate::manifest_file::{ManifestFile, Move};
use crate::root::Root;

/// The versions of a branch with the names of their files.
pub(crate) type Versions = BTreeMap<u64, String>;

/// The versions of the branch in a folder.
pub(crate) async fn versions(root: &Root, folder: &str) -> Result<Versions> {
    let mut versions = Versions::new();
    let mut found = listing(root, &format!("{folder}/_versions"));
    while let Some(object) = found.try_next().await? {
        let name = object.path.rsplit('/').next().unwrap_or_default();
        // A detached version does not parse: it belongs to no history.
        let number = match name.ends_with(".manifest") {
            true => ManifestNamingScheme::detect_scheme(name)
                .and_then(|scheme| scheme.parse_version(name)),
            false => None,
        };
        if let Some(number) = number {
            versions.insert(number, name.to_owned());
        }
    }
    Ok(versions)
}

/// The bytes of a manifest; nothing when it is gone.
pub(super) async fn manifest_bytes(root: &Root, folder: &str, name: &str) -> Result<Option<Bytes>> {
    let path = root.path(&format!("{folder}/_versions/{name}"));
    let read = match root.store().get(&path).await {
        Ok(object) => object.bytes().await,
        Err(error) => Err(error),
    };
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(from_object_store(error, "read of a manifest")),
    }
}

/// A manifest; nothing when it is gone.
pub(crate) async fn manifest(
    root: &Root,
    folder: &str,
    name: &str,
) -> Result<Option<ManifestFile>> {
    let Some(bytes) = manifest_bytes(root, folder, name).await? else { return Ok(None) };
    ManifestFile::parse(bytes).map(Some).map_err(|why| {
        Error::new(ErrorKind::Corrupt, format!("manifest `{folder}/_versions/{name}`: {why}"))
    })
}

/// What the target has to do to hold the source's versions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// Versions to be copied, ascending.
    pub(super) copy: Vec<u64>,
    /// Versions of another history, to be deleted from the target before, descending.
    pub(super) delete: Vec<u64>,
    /// Versions that are there.
    pub(super) kept: usize,
}

/// Compares the histories of a branch. Versions are told apart by number, and numbers are used again
/// after a table was dropped and made anew, or a lake was put back to an older state: so the newest
/// version that both have is compared as a whole. If it is the same, so are all before it.
///
/// Versions that the source has cleaned stay in the target, where they are of the same history:
/// `is_same_table` says so where no version is left to be compared.
pub(super) async fn compare(
    (from, from_folder, ours): (&Root, &str, &Versions),
    (to, to_folder, theirs): (&Root, &str, &Versions),
    moves: &[Move],
    is_same_table: bool,
) -> Result<Steps> {
    let mut steps = Steps::default();
    let mut common = None;
    for (number, name) in theirs.iter().rev() {
        if let Some(our_name) = ours.get(number) {
            let source = manifest(from, from_folder, our_name).await?;
            // A target's file that cannot be read is replaced like any other that differs.
            let target = match manifest_bytes(to, to_folder, name).await? {
                Some(bytes) => ManifestFile::parse(bytes).ok(),
                None => None,
            };
            if let (Some(source), Some(target)) = (&source, &target)
                && source.is_same(target, moves)
            {
                common = Some(*number);
                break;
            }
        }
        steps.delete.push(*number);
    }
    let oldest = ours.keys().next().copied().unwrap_or(0);
    let is_past = theirs.keys().next_back().is_some_and(|newest| *newest < oldest);
    if common.is_none() && is_past && is_same_table {
        steps.delete.clear();
    }
    for number in ours.keys() {
        match common {
            Some(common) if *number <= common && theirs.contains_key(number) => steps.kept += 1,
            _ => steps.copy.push(*number),
        }
    }
    Ok(steps)
}
