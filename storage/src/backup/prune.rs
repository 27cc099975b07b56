//! Takes out of a backup what the lake has no more: versions that were cleaned, the files that only they
//! used, tables that were dropped, and blobs. It looks only at what is there after a backup was whole.

use std::collections::{BTreeMap, BTreeSet};

use async_recursion::async_recursion as boxed;
use futures::TryStreamExt as _;
use lakebed_core::{Error, ErrorKind, Result};

use super::history::{manifest, versions};
use super::listing::{Paths, listing, sizes};
use super::record::BackupRecord;
use super::table::{TablePlan, Transfer, below_root};
use crate::manifest_file::Named;
use crate::root::{BLOBS_FOLDER, SYSTEM_FOLDER};

/// What was taken out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Files, versions and blobs.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Transfer<'_> {
    /// Deletes what the versions of the lake's tables do not need, and what is no table's.
    #[boxed]
    pub(super) async fn prune(&self, record: &BackupRecord, plans: &[TablePlan]) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for plan in plans {
            self.prune_versions(plan, &mut pruned).await?;
        }
        let kept = self.kept(plans).await?;
        for plan in plans {
            self.prune_files(plan, &kept, &mut pruned).await?;
        }
        self.prune_folders(record, &mut pruned).await?;
        self.prune_blobs(&mut pruned).await?;
        Ok(pruned)
    }

    /// The files and folders that versions of any table name: a clone's lie in another table's folder.
    async fn kept(&self, plans: &[TablePlan]) -> Result<Paths<()>> {
        let mut kept: Paths<()> = Paths::default();
        for plan in plans {
            for branch in &plan.branches {
                let folder = plan.new_folder(branch);
                for name in versions(self.to, &folder).await?.values() {
                    let Some(manifest) = manifest(self.to, &folder, name).await? else { continue };
                    let visited = manifest.visit(|base, path, _: Named| {
                        if let Some(full) = below_root(self.to.uri(), &folder, base, &path) {
                            kept.insert(&full, ());
                        }
                    });
                    visited.map_err(|why| {
                        let what = format!("manifest `{folder}/_versions/{name}`: {why}");
                        Error::new(ErrorKind::Corrupt, what)
                    })?;
                }
            }
        }
        Ok(kept)
    }

    /// Versions go before their files: what is there stays whole.
    async fn prune_versions(&self, plan: &TablePlan, pruned: &mut Pruned) -> Result<()> {
        for branch in &plan.branches {
            let folder = plan.new_folder(branch);
            let there: BTreeMap<u64, String> = versions(self.to, &folder).await?;
            for (number, name) in there {
                if !branch.versions.contains_key(&number) {
                    let path = format!("{folder}/_versions/{name}");
                    self.prune_one(&path, 0, pruned).await?;
                }
            }
        }
        Ok(())
    }

    async fn prune_files(
        &self,
        plan: &TablePlan,
        kept: &Paths<()>,
        pruned: &mut Pruned,
    ) -> Result<()> {
        let location = format!("{}/", plan.table.new_location);
        let mut found = listing(self.to, &plan.table.new_location);
        let mut gone = Vec::new();
        while let Some(object) = found.try_next().await? {
            let inside = object.path.strip_prefix(&location).unwrap_or(&object.path);
            let is_plain = ["data/", "_deletions/", "_transactions/", "_indices/"]
                .iter()
                .any(|folder| inside.starts_with(folder) || inside.contains(&format!("/{folder}")));
            let mut ancestors = object.path.match_indices('/').map(|(at, _)| &object.path[..at]);
            let is_kept = kept.get(&object.path).is_some()
                || ancestors.any(|folder| kept.get(folder).is_some());
            // Of a branch that was deleted, versions and all.
            let is_of_no_branch = inside.starts_with("tree/")
                && !plan.branches.iter().any(|branch| branch.has(inside));
            if (is_plain && !is_kept) || is_of_no_branch {
                gone.push(object);
            }
        }
        for object in gone {
            self.prune_one(&object.path, object.size, pruned).await?;
        }
        Ok(())
    }

    /// Folders of tables that the backup does not name any more.
    async fn prune_folders(&self, record: &BackupRecord, pruned: &mut Pruned) -> Result<()> {
        let known: BTreeSet<&str> =
            record.tables.iter().map(|table| table.location.as_str()).collect();
        let mut found = listing(self.to, "");
        let mut gone = Vec::new();
        while let Some(object) = found.try_next().await? {
            let of_system = [SYSTEM_FOLDER, BLOBS_FOLDER]
                .iter()
                .any(|folder| object.path.starts_with(&format!("{folder}/")));
            let is_known =
                object.path.match_indices('/').any(|(at, _)| known.contains(&object.path[..at]));
            if !of_system && !is_known {
                gone.push(object);
            }
        }
        for object in gone {
            self.prune_one(&object.path, object.size, pruned).await?;
        }
        Ok(())
    }

    async fn prune_blobs(&self, pruned: &mut Pruned) -> Result<()> {
        let kept = sizes(self.from, BLOBS_FOLDER).await?;
        let mut found = listing(self.to, BLOBS_FOLDER);
        let mut gone = Vec::new();
        while let Some(object) = found.try_next().await? {
            if kept.get(&object.path).is_none() {
                gone.push(object);
            }
        }
        for object in gone {
            self.prune_one(&object.path, object.size, pruned).await?;
        }
        Ok(())
    }

    async fn prune_one(&self, path: &str, bytes: u64, pruned: &mut Pruned) -> Result<()> {
        self.copier.delete(&self.to.path(path)).await?;
        pruned.files += 1;
        pruned.bytes += bytes;
        Ok(())
    }
}
