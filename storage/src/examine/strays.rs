//! Files that nobody names, and what killed processes left: counted, and what is safe to delete deleted.

use std::path::{Path as FsPath, PathBuf};

use async_recursion::async_recursion as boxed;
use futures::TryStreamExt as _;
use lakebed_core::{Error, ErrorKind, Result, TableId};

use super::{Finding, Severity};
use crate::backup::{Paths, below_root, branch_names, listing, manifest, versions};
use crate::lake::Lake;
use crate::lance_error::from_io;

/// Folders of a table, or of a branch, in which files are named by versions.
const NAMED_FOLDERS: [&str; 4] = ["data", "_deletions", "_transactions", "_indices"];

impl Lake {
    /// Counts the files of a table that no version of any branch names.
    #[boxed]
    pub(super) async fn unnamed_files(
        &self,
        id: &TableId,
        location: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let root = &self.shared.root;
        let mut named: Paths<()> = Paths::default();
        let mut folders = vec![location.to_owned()];
        for branch in branch_names(root, location).await? {
            folders.push(format!("{location}/tree/{branch}"));
        }
        for folder in folders {
            for name in versions(root, &folder).await?.values() {
                let read = match manifest(root, &folder, name).await {
                    Ok(None) => continue,
                    Ok(Some(manifest)) => manifest
                        .visit(|base, path, _| {
                            if let Some(full) = below_root(root.uri(), &folder, base, &path) {
                                named.insert(&full, ());
                            }
                        })
                        .map_err(|why| {
                            Error::new(ErrorKind::Corrupt, format!("manifest `{name}`: {why}"))
                        }),
                    Err(error) => Err(error),
                };
                if let Err(error) = read {
                    findings.push(Finding::new(
                        Severity::Problem,
                        &id.to_string(),
                        format!("a version cannot be read: {}", error.message()),
                    ));
                    // Without it nothing can be said of the others' files.
                    return Ok(());
                }
            }
        }
        let (mut files, mut bytes) = (0_u64, 0);
        let mut found = listing(root, location);
        while let Some(object) = found.try_next().await? {
            let inside = object.path.strip_prefix(location).unwrap_or(&object.path);
            let can_be_named =
                inside.split('/').rev().skip(1).any(|it| NAMED_FOLDERS.contains(&it));
            let mut ancestors = object.path.match_indices('/').map(|(at, _)| &object.path[..at]);
            let is_named = named.get(&object.path).is_some()
                || ancestors.any(|folder| named.get(folder).is_some());
            if can_be_named && !is_named {
                files += 1;
                bytes += object.size;
            }
        }
        if files > 0 {
            findings.push(Finding::new(
                Severity::Note,
                &id.to_string(),
                format!(
                    "{files} files of {bytes} bytes that no version names: of writes that broke off; \
                     cleaning deletes them when they are old"
                ),
            ));
        }
        Ok(())
    }

    /// What killed processes left half written in a local lake. Nobody else has the lake open, so nobody
    /// writes them any more.
    pub(super) async fn half_written(
        &self,
        is_repair: bool,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let Some(folder) = self.shared.root.local().map(FsPath::to_path_buf) else { return Ok(()) };
        let looked = tokio::task::spawn_blocking(move || {
            let mut left = Vec::new();
            find_half_written(&folder, &mut left)?;
            let bytes: u64 = left.iter().map(|(_, bytes)| bytes).sum();
            if is_repair {
                for (path, _) in &left {
                    std::fs::remove_file(path)
                        .map_err(|error| from_io(error, "delete a half-written file"))?;
                }
            }
            Ok::<_, Error>((left.len(), bytes))
        });
        let (files, bytes) =
            looked.await.map_err(|error| Error::internal("a task failed").with_source(error))??;
        if files > 0 {
            let done = match is_repair {
                true => "deleted",
                false => "`--repair` deletes them",
            };
            let text = format!("{files} half-written files of {bytes} bytes: {done}");
            findings.push(Finding::new(Severity::Note, "leftovers", text));
        }
        Ok(())
    }
}

fn find_half_written(folder: &FsPath, left: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let failed = |error| from_io(error, "list the lake's folders");
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            find_half_written(&entry.path(), left)?;
        } else if kind.is_file() && is_half_written(&entry.file_name().to_string_lossy()) {
            left.push((entry.path(), entry.metadata().map_err(failed)?.len()));
        }
    }
    Ok(())
}

/// The names that stores give to files which are being written: `NAME#1`.
pub(crate) fn is_half_written(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(name, number)| {
        !name.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_store_gives_are_half_written() {
        for name in ["a.lance#1", "lake.json#23", "abc#0"] {
            assert!(is_half_written(name), "{name}");
        }
        for name in ["a.lance", "#1", "a#", "a#1b", "1"] {
            assert!(!is_half_written(name), "{name}");
        }
    }
}
