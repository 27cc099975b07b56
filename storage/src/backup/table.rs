//! One table on its way: first its files, then, when everything that its versions refer to is there, its
//! versions, the oldest first, and last what names versions (tags and branches).

use std::collections::{BTreeMap, BTreeSet};

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result, TableId};
use object_store::ObjectStoreExt as _;

use super::copier::{COPIES, Copier, Copy};
use super::history::{Steps, Versions, compare, manifest, versions};
use super::listing::{Found, Paths, listing, sizes};
use super::progress::BackupProgress;
use crate::lance_error::from_object_store;
use crate::manifest_file::{Move, Named, moved_path};
use crate::root::Root;

/// Folders of a table whose files are copied only where a version names them. What lies in any other
/// folder belongs to features of lance that are not known here, and is copied.
const KNOWN_FOLDERS: [&str; 7] =
    ["data", "_versions", "_transactions", "_deletions", "_indices", "_refs", "tree"];
/// How often a table is planned anew because versions were cleaned meanwhile.
const PLANS_MAX: u32 = 4;

/// Which table goes where.
#[derive(Debug, Clone)]
pub(super) struct TableMove {
    pub(super) id: TableId,
    pub(super) uid: String,
    pub(super) location: String,
    pub(super) new_uid: String,
    pub(super) new_location: String,
    /// Whether what lies in the new location was copied from this table before.
    pub(super) is_known: bool,
}

/// A branch that is on its way.
#[derive(Debug)]
pub(super) struct BranchPlan {
    /// Its name; nothing for main.
    pub(super) name: Option<String>,
    /// Its folder below the table's, with a slash at its beginning, or nothing.
    folder: String,
    pub(super) versions: Versions,
    pub(super) steps: Steps,
}

/// A table that is on its way.
#[derive(Debug)]
pub(super) struct TablePlan {
    pub(super) table: TableMove,
    pub(super) branches: Vec<BranchPlan>,
    /// Tags and records of branches, by their paths below the table.
    refs: BTreeMap<String, Bytes>,
    /// Places outside the lake that versions refer to.
    pub(super) outside: BTreeSet<String>,
}

/// From where to where.
pub(super) struct Transfer<'a> {
    pub(super) from: &'a Root,
    /// Where the manifests of the source say that it lies.
    pub(super) made_at: &'a str,
    pub(super) to: &'a Root,
    pub(super) copier: Copier<'a>,
    pub(super) progress: &'a BackupProgress,
}

/// What versions need.
#[derive(Default)]
struct Wanted {
    /// Files, and whether they were found.
    files: Paths<bool>,
    maybe: Paths<()>,
    folders: Paths<()>,
    /// Files and folders of other tables, which happen in clones.
    elsewhere: BTreeMap<String, Named>,
    outside: BTreeSet<String>,
}

impl BranchPlan {
    /// Whether a path below the table's folder lies in the branch's own.
    pub(super) fn has(&self, inside: &str) -> bool {
        let folder = self.folder.strip_prefix('/').filter(|folder| !folder.is_empty());
        folder
            .and_then(|folder| inside.strip_prefix(folder))
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl TablePlan {
    pub(super) fn folder(&self, branch: &BranchPlan) -> String {
        format!("{}{}", self.table.location, branch.folder)
    }

    pub(super) fn new_folder(&self, branch: &BranchPlan) -> String {
        format!("{}{}", self.table.new_location, branch.folder)
    }

    /// The newest version of a branch.
    pub(super) fn newest(&self, branch: &str) -> Option<u64> {
        let named = |plan: &&BranchPlan| plan.name.as_deref().unwrap_or("main") == branch;
        self.branches.iter().find(named)?.versions.keys().next_back().copied()
    }
}

impl Transfer<'_> {
    /// How the paths of a table's manifests change.
    pub(super) fn moves(&self, table: &TableMove) -> Vec<Move> {
        let to = self.to.uri();
        vec![
            Move {
                from: format!("{}/{}", self.made_at, table.location),
                to: format!("{to}/{}", table.new_location),
            },
            Move { from: self.made_at.to_owned(), to: to.to_owned() },
        ]
    }

    /// Copies the files of a table that its versions need; says which versions may follow.
    ///
    /// # Errors
    /// `Corrupt` when a version names a file that is missing.
    #[boxed]
    pub(super) async fn copy_files(&self, table: &TableMove) -> Result<TablePlan> {
        for _ in 1..PLANS_MAX {
            let mut plan = self.plan(table).await?;
            match self.copy_wanted(&mut plan).await {
                Ok(()) => {
                    self.progress.table_done();
                    return Ok(plan);
                }
                Err(error) if !self.is_cleaned(&plan).await? => return Err(error),
                Err(error) => {
                    let table = table.location.as_str();
                    tracing::info!(table, error = %error.report(), "versions were cleaned meanwhile");
                }
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("versions of `{}` are being cleaned; try again later", table.id),
        ))
    }

    async fn plan(&self, table: &TableMove) -> Result<TablePlan> {
        // Before the versions: what a tag names that is read now is among them.
        let refs = self.refs(&Self::refs_folder(table), self.from).await?;
        let mut names: Vec<Option<String>> = vec![None];
        names.extend(refs.keys().filter_map(|path| branch_of(path)).map(Some));
        let mut plan = TablePlan {
            table: table.clone(),
            branches: Vec::new(),
            refs,
            outside: BTreeSet::new(),
        };
        let moves = self.moves(table);
        for name in names {
            let folder = name.as_ref().map(|name| format!("/tree/{name}")).unwrap_or_default();
            let ours_at = format!("{}{folder}", table.location);
            let theirs_at = format!("{}{folder}", table.new_location);
            let ours = versions(self.from, &ours_at).await?;
            if ours.is_empty() && name.is_none() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("table `{}` has no version in `{}`", table.id, table.location),
                ));
            }
            let theirs = versions(self.to, &theirs_at).await?;
            let steps = compare(
                (self.from, &ours_at, &ours),
                (self.to, &theirs_at, &theirs),
                &moves,
                table.is_known,
            )
            .await?;
            plan.branches.push(BranchPlan { name, folder, versions: ours, steps });
        }
        Ok(plan)
    }

    fn refs_folder(table: &TableMove) -> String {
        format!("{}/_refs", table.location)
    }

    async fn refs(&self, folder: &str, root: &Root) -> Result<BTreeMap<String, Bytes>> {
        let mut refs = BTreeMap::new();
        let table = folder.strip_suffix("_refs").unwrap_or(folder);
        let mut found = listing(root, folder);
        while let Some(object) = found.try_next().await? {
            let read = |error| from_object_store(error, "read of a tag or branch");
            let got = match root.store().get(&root.path(&object.path)).await {
                Ok(got) => got,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(read(error)),
            };
            let path = object.path.strip_prefix(table).unwrap_or(&object.path).to_owned();
            refs.insert(path, got.bytes().await.map_err(read)?);
        }
        Ok(refs)
    }

    /// Whether a version that was planned is gone.
    async fn is_cleaned(&self, plan: &TablePlan) -> Result<bool> {
        for branch in &plan.branches {
            let now = versions(self.from, &plan.folder(branch)).await?;
            if branch.versions.keys().any(|number| !now.contains_key(number)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn copy_wanted(&self, plan: &mut TablePlan) -> Result<()> {
        let mut wanted = Wanted::default();
        for branch in &plan.branches {
            let folder = plan.folder(branch);
            for number in &branch.steps.copy {
                let name = branch.versions.get(number).map(String::as_str).unwrap_or_default();
                let Some(manifest) = manifest(self.from, &folder, name).await? else {
                    return Err(Error::not_found(format!("version {number} was cleaned")));
                };
                manifest
                    .visit(|base, path, kind| {
                        self.want(&plan.table.location, &folder, base, &path, kind, &mut wanted);
                    })
                    .map_err(|why| {
                        let what = format!("version {number} of `{}`: {why}", plan.table.id);
                        Error::new(ErrorKind::Corrupt, what)
                    })?;
            }
        }
        plan.outside.append(&mut wanted.outside);
        if plan.branches.iter().all(|branch| branch.steps.copy.is_empty()) {
            return Ok(());
        }
        self.copy_found(plan, &mut wanted).await?;
        self.copy_elsewhere(&wanted).await?;
        self.check_whole(plan, &wanted).await
    }

    fn want(
        &self,
        table: &str,
        own: &str,
        base: Option<&str>,
        path: &str,
        kind: Named,
        wanted: &mut Wanted,
    ) {
        let Some(full) = below_root(self.made_at, own, base, path) else {
            wanted.outside.insert(base.unwrap_or_default().to_owned());
            return;
        };
        if !full.strip_prefix(table).is_some_and(|rest| rest.starts_with('/')) {
            wanted.elsewhere.insert(full, kind);
            return;
        }
        match kind {
            Named::File if wanted.files.get(&full).is_none() => wanted.files.insert(&full, false),
            Named::File => {}
            Named::MaybeFile => wanted.maybe.insert(&full, ()),
            Named::Folder => wanted.folders.insert(&full, ()),
        }
    }

    /// Goes through the table's folder and copies what is wanted and not there.
    async fn copy_found(&self, plan: &TablePlan, wanted: &mut Wanted) -> Result<()> {
        let table = &plan.table;
        let there = sizes(self.to, &table.new_location).await?;
        let mut running = FuturesUnordered::new();
        let mut found = listing(self.from, &table.location);
        while let Some(object) = found.try_next().await? {
            let Some(inside) = object.path.strip_prefix(&format!("{}/", table.location)) else {
                continue;
            };
            if !is_wanted(plan, &object, inside, wanted) {
                continue;
            }
            let new_path = format!("{}/{inside}", table.new_location);
            if there.get(&new_path) == Some(&object.size) {
                self.progress.kept();
                continue;
            }
            if running.len() >= COPIES {
                running.next().await.transpose()?;
            }
            running.push(self.copier.copy(self.copy_of(&object, &new_path)));
        }
        running.try_collect().await
    }

    fn copy_of(&self, object: &Found, new_path: &str) -> Copy {
        Copy {
            from: self.from.path(&object.path),
            to: self.to.path(new_path),
            size: object.size,
            sha256: None,
        }
    }

    /// Copies what lies in the folders of other tables, at the same place below the new root.
    async fn copy_elsewhere(&self, wanted: &Wanted) -> Result<()> {
        for (path, kind) in &wanted.elsewhere {
            let mut objects = Vec::new();
            if *kind == Named::Folder {
                let mut found = listing(self.from, path);
                while let Some(object) = found.try_next().await? {
                    objects.push(object);
                }
            } else {
                match self.from.store().head(&self.from.path(path)).await {
                    Ok(meta) => objects.push(Found { path: path.clone(), size: meta.size }),
                    Err(object_store::Error::NotFound { .. }) if *kind == Named::MaybeFile => {}
                    Err(error) => {
                        return Err(from_object_store(error, &format!("copy of `{path}`")));
                    }
                }
            }
            for object in objects {
                match self.to.store().head(&self.to.path(&object.path)).await {
                    Ok(meta) if meta.size == object.size => self.progress.kept(),
                    _ => self.copier.copy(self.copy_of(&object, &object.path)).await?,
                }
            }
        }
        Ok(())
    }

    /// Names the first file that is missing.
    async fn check_whole(&self, plan: &TablePlan, wanted: &Wanted) -> Result<()> {
        if wanted.files.values().all(|is_found| *is_found) {
            return Ok(());
        }
        for branch in &plan.branches {
            let folder = plan.folder(branch);
            for number in &branch.steps.copy {
                let name = branch.versions.get(number).map(String::as_str).unwrap_or_default();
                let Some(manifest) = manifest(self.from, &folder, name).await? else { continue };
                let mut missing = None;
                let visited = manifest.visit(|base, path, _| {
                    if missing.is_none()
                        && let Some(full) = below_root(self.made_at, &folder, base, &path)
                        && wanted.files.get(&full) == Some(&false)
                    {
                        missing = Some(full);
                    }
                });
                if let (Ok(()), Some(missing)) = (visited, missing) {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "version {number} of `{}` names the file `{missing}`, which is missing; \
                             `lakebed doctor` says more",
                            plan.table.id
                        ),
                    ));
                }
            }
        }
        Err(Error::internal("a file is missing and no version names it"))
    }

    /// Copies the versions of a table whose files are all there, and what names them.
    #[boxed]
    pub(super) async fn copy_versions(&self, plan: &TablePlan) -> Result<()> {
        let moves = self.moves(&plan.table);
        for branch in &plan.branches {
            let new_folder = plan.new_folder(branch);
            if !branch.steps.delete.is_empty() {
                let theirs = versions(self.to, &new_folder).await?;
                for number in &branch.steps.delete {
                    let Some(name) = theirs.get(number) else { continue };
                    let path = self.to.path(&format!("{new_folder}/_versions/{name}"));
                    self.copier.delete(&path).await?;
                }
            }
            self.progress.versions_kept(branch.steps.kept);
            // The newest last: whoever opens the table sees one whose past is there.
            let Some((newest, older)) = branch.steps.copy.split_last() else { continue };
            futures::stream::iter(older.to_vec())
                .map(|number| self.copy_version(plan, branch, number, &moves))
                .buffer_unordered(COPIES)
                .try_collect::<()>()
                .await?;
            self.copy_version(plan, branch, *newest, &moves).await?;
        }
        self.copy_refs(plan).await
    }

    async fn copy_version(
        &self,
        plan: &TablePlan,
        branch: &BranchPlan,
        number: u64,
        moves: &[Move],
    ) -> Result<()> {
        let (folder, new_folder) = (plan.folder(branch), plan.new_folder(branch));
        let name = branch.versions.get(&number).map(String::as_str).unwrap_or_default();
        // Its files are there, so it does not matter if it was cleaned meanwhile, by another tool.
        let Some(bytes) = super::history::manifest_bytes(self.from, &folder, name).await? else {
            return Ok(());
        };
        let manifest = crate::manifest_file::ManifestFile::parse(bytes.clone());
        let moved = manifest.and_then(|manifest| manifest.moved(moves)).map_err(|why| {
            Error::new(ErrorKind::Corrupt, format!("version {number} of `{folder}`: {why}"))
        })?;
        let path = self.to.path(&format!("{new_folder}/_versions/{name}"));
        self.copier.put(&path, moved.unwrap_or(bytes)).await?;
        self.progress.version_copied();
        Ok(())
    }

    async fn copy_refs(&self, plan: &TablePlan) -> Result<()> {
        let folder = format!("{}/_refs", plan.table.new_location);
        let there = self.refs(&folder, self.to).await?;
        for (path, bytes) in &plan.refs {
            let is_there = there.get(path) == Some(bytes);
            if !is_there && names_a_version(plan, path, bytes) {
                let path = self.to.path(&format!("{}/{path}", plan.table.new_location));
                self.copier.put(&path, bytes.clone()).await?;
            }
        }
        for path in there.keys().filter(|path| !plan.refs.contains_key(*path)) {
            let path = self.to.path(&format!("{}/{path}", plan.table.new_location));
            self.copier.delete(&path).await?;
        }
        Ok(())
    }
}

/// The path below the root of what a version names: of the branch in the folder `own`, in a lake whose
/// manifests say that it lies at `root`.
pub(crate) fn below_root(root: &str, own: &str, base: Option<&str>, path: &str) -> Option<String> {
    let folder = match base {
        None => own.to_owned(),
        Some(base) => {
            let base = base.strip_prefix("file://").unwrap_or(base);
            moved_path(base, root, "")?.trim_matches('/').to_owned()
        }
    };
    Some(format!("{folder}/{path}"))
}

fn is_wanted(plan: &TablePlan, object: &Found, inside: &str, wanted: &mut Wanted) -> bool {
    if let Some(is_found) = wanted.files.get_mut(&object.path) {
        *is_found = true;
        return true;
    }
    if wanted.maybe.get(&object.path).is_some() {
        return true;
    }
    let mut ancestors = object.path.match_indices('/').map(|(at, _)| &object.path[..at]);
    if ancestors.any(|folder| wanted.folders.get(folder).is_some()) {
        return true;
    }
    // The same place within a branch's own folder.
    let in_branch = plan.branches.iter().find_map(|branch| {
        let folder = branch.folder.strip_prefix('/')?;
        inside.strip_prefix(folder)?.strip_prefix('/')
    });
    let inside = in_branch.unwrap_or(inside);
    match inside.split_once('/') {
        Some((folder, _)) => !KNOWN_FOLDERS.contains(&folder),
        None => true,
    }
}

/// The branch that a record below `_refs/` is of.
fn branch_of(path: &str) -> Option<String> {
    let name = path.strip_prefix("_refs/branches/")?.strip_suffix(".json")?;
    Some(name.replace("%2F", "/"))
}

/// The branches that a table's folder has records of.
pub(crate) async fn branch_names(root: &Root, location: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut found = listing(root, &format!("{location}/_refs/branches"));
    while let Some(object) = found.try_next().await? {
        let inside = object.path.strip_prefix(location).unwrap_or_default();
        names.extend(branch_of(inside.trim_start_matches('/')));
    }
    Ok(names)
}

/// A tag that names a version which was cleaned meanwhile does not come along.
fn names_a_version(plan: &TablePlan, path: &str, bytes: &[u8]) -> bool {
    if !path.starts_with("_refs/tags/") {
        return true;
    }
    let Ok(tag) = serde_json::from_slice::<serde_json::Value>(bytes) else { return true };
    let named = tag["branch"].as_str();
    let branch = plan.branches.iter().find(|branch| branch.name.as_deref() == named);
    match (branch, tag["version"].as_u64()) {
        (Some(branch), Some(version)) => branch.versions.contains_key(&version),
        _ => false,
    }
}
