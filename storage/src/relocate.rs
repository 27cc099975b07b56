//! Relocate: a lake that was moved or copied gets its paths rewritten.
//!
//! Lance writes some absolute paths into manifests: the base path of large blobs, and for a branch the
//! root of its table. Each manifest of each table, branches included, is read, its base paths are moved
//! from the old root to the new one, and it is replaced atomically; everything else in the file stays as
//! it is, byte for byte. The lake's record is written last, so a run that was cut off is simply run
//! again.

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::TryStreamExt;
use lakebed_core::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt;

use crate::lake::{LakeOptions, claim, open_root, read_record, write_record};
use crate::lance_error::from_object_store;
use crate::manifest_file::{ManifestFile, Move};
use crate::root::Root;

/// What relocating did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Where the lake was.
    pub from: String,
    /// Where it is.
    pub to: String,
    /// Manifests that were read.
    pub manifests_read: usize,
    /// Manifests that were, or would be, rewritten.
    pub manifests_changed: usize,
}

/// Rewrites the paths of a lake for the place where it lies now. Nobody may be serving it.
///
/// # Errors
/// `AlreadyExists` when a server holds it, `NotFound` when there is no lake, `Corrupt` for a manifest
/// that cannot be read.
#[boxed]
pub async fn relocate(options: &LakeOptions, dry_run: bool) -> Result<Relocation> {
    let no_lake = || Error::not_found(format!("there is no lake at `{}`", options.root));
    // Opening a root makes its folder.
    if !options.root.contains("://") && !std::path::Path::new(&options.root).is_dir() {
        return Err(no_lake());
    }
    let (root, system) = open_root(options)?;
    if read_record(&system).await?.is_none() {
        return Err(no_lake());
    }
    let _lock = claim(&root)?;
    // Only now nobody changes it.
    let mut record = read_record(&system).await?.ok_or_else(no_lake)?;
    let mut done = Relocation {
        from: record.root.clone(),
        to: root.uri().to_owned(),
        manifests_read: 0,
        manifests_changed: 0,
    };
    if done.from == done.to {
        return Ok(done);
    }
    let manifests: Vec<object_store::path::Path> = root
        .store()
        .list(Some(&root.path("")))
        .map_ok(|meta| meta.location)
        .try_filter(|path| {
            let path = path.as_ref();
            let is_manifest = path.contains(".lance/") && path.contains("/_versions/");
            futures::future::ready(is_manifest && path.ends_with(".manifest"))
        })
        .try_collect()
        .await
        .map_err(|error| from_object_store(error, "listing of the lake"))?;
    for path in manifests {
        done.manifests_read += 1;
        done.manifests_changed +=
            usize::from(relocate_manifest(&root, &path, &done.from, &done.to, dry_run).await?);
    }
    if !dry_run {
        record.root = done.to.clone();
        write_record(&system, &record).await?;
    }
    Ok(done)
}

async fn relocate_manifest(
    root: &Root,
    path: &object_store::path::Path,
    from: &str,
    to: &str,
    dry_run: bool,
) -> Result<bool> {
    let read = |error| from_object_store(error, "read of a manifest");
    let bytes = root.store().get(path).await.map_err(read)?.bytes().await.map_err(read)?;
    let Some(moved) = moved_manifest(bytes, from, to)
        .map_err(|why| Error::new(ErrorKind::Corrupt, format!("manifest `{path}`: {why}")))?
    else {
        return Ok(false);
    };
    if !dry_run {
        root.store()
            .put(path, moved.into())
            .await
            .map_err(|error| from_object_store(error, "write of a manifest"))?;
    }
    Ok(true)
}

/// A manifest file with its base paths moved, or nothing when none lies below `from`.
fn moved_manifest(file: Bytes, from: &str, to: &str) -> std::result::Result<Option<Bytes>, String> {
    let moves = [Move { from: from.to_owned(), to: to.to_owned() }];
    ManifestFile::parse(file)?.moved(&moves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_manifests_are_errors() {
        for bytes in [&b""[..], b"short", &[0_u8; 64], b"0123456789abcdef____LANC"] {
            assert!(moved_manifest(Bytes::copy_from_slice(bytes), "/a", "/b").is_err());
        }
        let mut hostile = vec![0_u8; 32];
        hostile.extend(i64::MAX.to_le_bytes());
        hostile.extend([0; 4]);
        hostile.extend(lance_table::format::MAGIC);
        assert!(moved_manifest(hostile.into(), "/a", "/b").is_err());
    }
}
