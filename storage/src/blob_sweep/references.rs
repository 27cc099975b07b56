//! Which large blobs the versions of all tables refer to.
//!
//! All folders of tables are looked at, whatever the catalogues say of them: a table that was dropped and
//! is still read counts, and so does one whose name is not entered yet. Of each, all versions of all
//! branches count that are there.
//!
//! A look is over when nothing was found in it that an earlier one had not seen. Versions come and go
//! meanwhile, and one that went may have passed what it refers to on to one that came: that one is seen
//! by the next look, which reads only what is new.
//!
//! What a data file refers to is read once in its life, descriptors only, and remembered with the positions
//! of the rows, so that rows that were deleted later can be left out. It is derived data, under
//! `_lakebed/blob_refs/<table uid>.json`, and may be deleted at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{DatabaseName, Error, ErrorKind, Result};
use lance::Dataset;
use lance_core::ROW_ADDR;
use lance_core::datatypes::Field;
use lance_table::format::{Fragment, Manifest};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::backup::{branch_names, manifest, uris, versions};
use crate::blob_digest::BlobDigest;
use crate::branches::branch_folders;
use crate::column_patch::ids_below;
use crate::lake::Lake;
use crate::lance_error::{from_lance, from_object_store};
use crate::manifest_file::ManifestFile;
use crate::system::SystemStore;

/// Manifests that are read at the same time.
const READS_AT_ONCE: usize = 16;
/// Rows whose descriptors are looked at at once.
const ROWS_AT_ONCE: usize = 8_192;
/// Looks until all is seen; each later one reads only what came while the one before it went on.
const LOOKS_MAX: u32 = 50;
const FORMAT: u32 = 1;

/// Where it is remembered what the data files of a table refer to, below `_lakebed/`.
pub(crate) fn references_path(uid: &str) -> String {
    format!("blob_refs/{uid}.json")
}

/// What files refer to, by position of the row in its fragment. A position that is not known, because
/// the blob lies deeper in the row, is none: such a row counts even when it is deleted.
type Referred = Vec<(Option<u32>, BlobDigest)>;

/// What the data files of one table refer to, by what they are called.
#[derive(Debug, Default)]
struct Remembered {
    files: HashMap<String, Referred>,
    used: HashSet<String>,
    is_changed: bool,
}

/// The same as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    files: BTreeMap<String, Vec<(Option<u32>, String)>>,
}

impl Remembered {
    /// What cannot be read is found anew.
    async fn load(system: &SystemStore, uid: Option<&str>) -> Result<Remembered> {
        let mut remembered = Remembered::default();
        let Some(uid) = uid else { return Ok(remembered) };
        let Some(bytes) = system.get(&references_path(uid)).await? else { return Ok(remembered) };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        let Some(record) = record.filter(|record| record.format == FORMAT) else {
            return Ok(remembered);
        };
        for (name, referred) in record.files {
            let referred: Option<Referred> = referred
                .into_iter()
                .map(|(position, digest)| Some((position, BlobDigest::parse(&digest)?)))
                .collect();
            if let Some(referred) = referred {
                remembered.files.insert(name, referred);
            }
        }
        Ok(remembered)
    }

    async fn store(&self, system: &SystemStore, uid: Option<&str>) -> Result<()> {
        let Some(uid) = uid.filter(|_| self.is_changed) else { return Ok(()) };
        let files = self.files.iter().map(|(name, referred)| {
            let referred = referred.iter().map(|(position, digest)| (*position, digest.hex()));
            (name.clone(), referred.collect())
        });
        let record = Record { format: FORMAT, files: files.collect() };
        let bytes = serde_json::to_vec(&record)
            .map_err(|error| Error::internal("encode references").with_source(error))?;
        system.put(&references_path(uid), Bytes::from(bytes)).await
    }
}

/// What was found so far.
pub(super) struct References<'a> {
    lake: &'a Lake,
    /// The blobs that somebody wants to know of.
    wanted: HashSet<BlobDigest>,
    /// Of these, those that a version refers to, with the place of one such table among `locations`.
    referred: HashMap<BlobDigest, usize>,
    /// Where tables lie.
    locations: Vec<String>,
    places: HashMap<String, usize>,
    /// Versions that were read.
    seen: HashSet<u128>,
    /// What data files refer to, rows that are deleted included, where it is asked for.
    named: Option<HashSet<BlobDigest>>,
}

impl<'a> References<'a> {
    pub(super) fn new(lake: &'a Lake, wanted: HashSet<BlobDigest>) -> Self {
        References {
            lake,
            wanted,
            referred: HashMap::new(),
            locations: Vec::new(),
            places: HashMap::new(),
            seen: HashSet::new(),
            named: None,
        }
    }

    /// What the versions of one table refer to; with `named` also what their files do.
    #[boxed]
    pub(super) async fn look_at_one(&mut self, location: &str, uid: &str) -> Result<()> {
        let place = self.place(location);
        for _ in 0..LOOKS_MAX {
            if self.look_at(location, Some(uid), place).await? {
                return Ok(());
            }
        }
        Err(too_fast())
    }

    /// Asks for what the files of one table refer to, whether a row shows it or not.
    #[boxed]
    pub(super) async fn named_by(
        lake: &'a Lake,
        location: &str,
        uid: &str,
    ) -> Result<HashSet<BlobDigest>> {
        let mut references = References::new(lake, HashSet::new());
        references.named = Some(HashSet::new());
        references.look_at_one(location, uid).await?;
        Ok(references.named.unwrap_or_default())
    }

    /// Reads all versions that were not read yet.
    ///
    /// # Errors
    /// Naming the table that cannot be read; then nothing may be deleted.
    #[boxed]
    pub(super) async fn look(&mut self) -> Result<()> {
        for _ in 0..LOOKS_MAX {
            if self.look_once().await? {
                return Ok(());
            }
        }
        Err(too_fast())
    }

    /// Whether nothing was new.
    async fn look_once(&mut self) -> Result<bool> {
        let uids = self.uids().await?;
        let mut is_all = true;
        for location in self.folders().await? {
            let uid = uids.get(&location).map(String::as_str);
            let place = self.place(&location);
            is_all &= self.look_at(&location, uid, place).await.map_err(|error| {
                error.context(format!("the large blobs of the table in `{location}`"))
            })?;
        }
        Ok(is_all)
    }

    fn place(&mut self, location: &str) -> usize {
        if let Some(place) = self.places.get(location) {
            return *place;
        }
        self.locations.push(location.to_owned());
        self.places.insert(location.to_owned(), self.locations.len() - 1);
        self.locations.len() - 1
    }

    /// Whether a version refers to a blob.
    pub(super) fn has(&self, digest: &BlobDigest) -> bool {
        self.referred.contains_key(digest)
    }

    /// Where a table lies that refers to a blob.
    pub(super) fn location_of(&self, digest: &BlobDigest) -> Option<&str> {
        self.locations.get(*self.referred.get(digest)?).map(String::as_str)
    }

    /// The uids of tables by where they lie.
    async fn uids(&self) -> Result<HashMap<String, String>> {
        let mut uids = HashMap::new();
        for database in self.lake.catalog.databases().await? {
            let (state, _) = self.lake.catalog.state(&database).await?;
            let gone = state.dropped.values().chain(state.left.values());
            for entry in state.tables.values().chain(gone) {
                uids.insert(entry.location.clone(), entry.uid.clone());
            }
        }
        Ok(uids)
    }

    /// The folders of tables, whether a catalogue names them or not.
    async fn folders(&self) -> Result<Vec<String>> {
        let root = &self.lake.shared.root;
        let depth = root.path("").parts().count();
        let (mut folders, mut unread) = (Vec::new(), vec![root.path("")]);
        while let Some(folder) = unread.pop() {
            let listed = match root.store().list_with_delimiter(Some(&folder)).await {
                Ok(listed) => listed,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => {
                    return Err(from_object_store(error, "listing of the lake's folders"));
                }
            };
            for inside in listed.common_prefixes {
                let name = inside.parts().next_back();
                let name = name.as_ref().map(AsRef::as_ref).unwrap_or_default();
                if name.ends_with(".lance") {
                    folders.push(Path::from_iter(inside.parts().skip(depth)).to_string());
                } else if DatabaseName::parse(name).is_ok() {
                    // Another name is no database's or namespace's; among them are the lake's own.
                    unread.push(inside);
                }
            }
        }
        folders.sort();
        Ok(folders)
    }

    async fn look_at(&mut self, location: &str, uid: Option<&str>, place: usize) -> Result<bool> {
        let root = &self.lake.shared.root;
        let mut folders = vec![location.to_owned()];
        let mut branches: BTreeSet<String> =
            branch_names(root, location).await?.into_iter().collect();
        // One that was deleted and is still read, too.
        let left = branch_folders(root.store().as_ref(), &root.path(location)).await?;
        branches.extend(left.into_keys());
        for branch in branches {
            folders.push(format!("{location}/tree/{branch}"));
        }
        let mut unseen = Vec::new();
        let mut seen = 0_usize;
        for folder in folders {
            for name in versions(root, &folder).await?.into_values() {
                let path = hash(&format!("{folder}/{name}"));
                match self.seen.contains(&path) {
                    true => seen += 1,
                    false => unseen.push((folder.clone(), name, path)),
                }
            }
        }
        if unseen.is_empty() {
            return Ok(true);
        }
        let system = &self.lake.shared.system;
        let mut remembered = Remembered::load(system, uid).await?;
        let mut states = HashSet::new();
        let reads = unseen.into_iter().map(|(folder, name, path)| async move {
            let read = manifest(root, &folder, &name).await?;
            Ok::<_, Error>((folder, name, path, read))
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        let mut is_whole = seen == 0;
        while let Some((folder, name, path, read)) = reads.try_next().await? {
            let Some(read) = read else {
                is_whole = false;
                continue;
            };
            let found = self.read(&folder, &read, place, &mut remembered, &mut states).await;
            match found {
                Ok(()) => drop(self.seen.insert(path)),
                // Its files went with it, which lance does not always call "not found".
                Err(_) if manifest(root, &folder, &name).await?.is_none() => is_whole = false,
                Err(error) => return Err(error),
            }
        }
        if is_whole && remembered.used.len() < remembered.files.len() {
            // Those of files that no version names any more.
            let Remembered { files, used, is_changed } = &mut remembered;
            files.retain(|name, _| used.contains(name));
            *is_changed = true;
        }
        if let Some(named) = &mut self.named {
            let used = remembered.used.iter().filter_map(|name| remembered.files.get(name));
            named.extend(used.flatten().map(|(_, digest)| *digest));
        }
        remembered.store(system, uid).await?;
        Ok(false)
    }

    /// Adds what one version refers to, as far as no other version in `states` had the same.
    async fn read(
        &mut self,
        folder: &str,
        file: &ManifestFile,
        place: usize,
        remembered: &mut Remembered,
        states: &mut HashSet<u128>,
    ) -> Result<()> {
        let version = file.decoded().map_err(|why| Error::new(ErrorKind::NotImplemented, why))?;
        let columns = blob_columns(&version);
        if columns.is_empty() {
            return Ok(());
        }
        let (mut unknown, mut holed, mut new_states) = (Vec::new(), Vec::new(), Vec::new());
        for fragment in version.fragments.iter() {
            let Some(name) = name_of(fragment, &columns) else { continue };
            let state = hash(&format!("{name} {:?}", fragment.deletion_file));
            if states.contains(&state) {
                continue;
            }
            new_states.push(state);
            remembered.used.insert(name.clone());
            match remembered.files.get(&name) {
                None => unknown.push((name, fragment)),
                Some(referred) if referred.is_empty() => {}
                Some(_) if fragment.deletion_file.is_some() => holed.push((name, fragment)),
                Some(referred) => self.add(referred.iter().map(|(_, digest)| *digest), place),
            }
        }
        if !unknown.is_empty() || !holed.is_empty() {
            let dataset = self.open(folder, file).await?;
            read_files(&dataset, &columns, &unknown, remembered).await?;
            for (name, fragment) in unknown.into_iter().chain(holed) {
                let Some(referred) = remembered.files.get(&name) else { continue };
                let live = live(&dataset, fragment, referred).await?;
                self.add(live, place);
            }
        }
        // Only now: a version that could not be read has shown nothing.
        states.extend(new_states);
        Ok(())
    }

    fn add(&mut self, digests: impl IntoIterator<Item = BlobDigest>, place: usize) {
        for digest in digests {
            if self.wanted.contains(&digest) {
                self.referred.insert(digest, place);
            }
        }
    }

    async fn open(&self, folder: &str, file: &ManifestFile) -> Result<Dataset> {
        let builder = self.lake.shared.root.dataset(folder);
        let builder = builder.with_serialized_manifest(&file.message(&[])).map_err(from_lance)?;
        builder.load().await.map_err(from_lance)
    }
}

/// The columns of a version that hold blobs, at whatever depth.
fn blob_columns(version: &Manifest) -> Vec<Field> {
    fn has_blob(field: &Field) -> bool {
        field.is_blob() || field.children.iter().any(has_blob)
    }
    version.schema.fields.iter().filter(|field| has_blob(field)).cloned().collect()
}

/// What the files of a fragment are called that hold blob columns; nothing where none does. A file that
/// another one took a column over from has another name than before.
fn name_of(fragment: &Fragment, columns: &[Field]) -> Option<String> {
    let wanted: HashSet<i32> =
        columns.iter().flat_map(ids_below).filter_map(|id| i32::try_from(id).ok()).collect();
    let mut names: Vec<String> = Vec::new();
    for file in &fragment.files {
        let fields: Vec<String> =
            file.fields.iter().filter(|id| wanted.contains(id)).map(i32::to_string).collect();
        if !fields.is_empty() {
            names.push(format!("{}:{}", file.path, fields.join(",")));
        }
    }
    names.sort();
    (!names.is_empty()).then(|| names.join(" "))
}

fn too_fast() -> Error {
    let message = "versions come and go faster than it can be read what they refer to";
    Error::new(ErrorKind::Conflict, message)
}

fn hash(text: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

/// Reads what the blob columns of fragments refer to, in deleted rows, too.
async fn read_files(
    dataset: &Dataset,
    columns: &[Field],
    unknown: &[(String, &Fragment)],
    remembered: &mut Remembered,
) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let mut names: HashMap<u32, &str> = HashMap::new();
    let mut whole = Vec::new();
    let mut found: HashMap<&str, Referred> = HashMap::new();
    for (name, fragment) in unknown {
        let id = u32::try_from(fragment.id)
            .map_err(|_| Error::internal("a fragment's number is beyond 32 bits"))?;
        names.insert(id, name);
        found.insert(name, Vec::new());
        whole.push(Fragment { deletion_file: None, ..Fragment::clone(fragment) });
    }
    let mut scanner = dataset.scan();
    scanner.with_fragments(whole);
    let columns: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    scanner.project(&columns).map_err(from_lance)?.with_row_address();
    scanner.batch_size(ROWS_AT_ONCE);
    let mut batches = Box::pin(scanner.try_into_stream()).await.map_err(from_lance)?;
    while let Some(batch) = batches.try_next().await.map_err(from_lance)? {
        let addresses = batch
            .column_by_name(ROW_ADDR)
            .and_then(|column| column.as_primitive_opt::<UInt64Type>())
            .ok_or_else(|| Error::internal("a scan gave no row addresses"))?;
        let schema = batch.schema();
        for (column, field) in batch.columns().iter().zip(schema.fields()) {
            if field.name() == ROW_ADDR {
                continue;
            }
            digests_in(column, true, &mut |row, digest| {
                // Where rows are not told apart it may be of any fragment in the batch.
                let of = match row {
                    Some(row) => &addresses.values()[row..=row],
                    None => addresses.values().as_ref(),
                };
                let mut last = None;
                for address in of {
                    let fragment = (address >> 32) as u32;
                    let referred = names.get(&fragment).and_then(|name| found.get_mut(name));
                    if let Some(referred) = referred
                        && last.replace(fragment) != Some(fragment)
                    {
                        referred.push((row.map(|_| *address as u32), digest));
                    }
                }
            });
        }
    }
    for (name, referred) in found {
        remembered.files.insert(name.to_owned(), referred);
    }
    remembered.is_changed = true;
    Ok(())
}

/// Tells the digests that a column's blobs refer to, with their rows where the column is one of blobs.
fn digests_in(column: &ArrayRef, is_top: bool, found: &mut impl FnMut(Option<usize>, BlobDigest)) {
    if let Some(list) = column.as_list_opt::<i32>() {
        return digests_in(list.values(), false, found);
    }
    if let Some(list) = column.as_list_opt::<i64>() {
        return digests_in(list.values(), false, found);
    }
    if let Some(list) = column.as_fixed_size_list_opt() {
        return digests_in(list.values(), false, found);
    }
    let Some(parts) = column.as_struct_opt() else { return };
    let Some(uris) = uris(parts) else {
        for part in parts.columns() {
            digests_in(part, false, found);
        }
        return;
    };
    for (row, uri) in uris.iter().enumerate() {
        let name = uri.and_then(|uri| uri.rsplit('/').next());
        if let Some(digest) = name.and_then(BlobDigest::parse)
            && parts.is_valid(row)
        {
            found(is_top.then_some(row), digest);
        }
    }
}

/// What the rows of a fragment refer to that are not deleted.
async fn live(
    dataset: &Dataset,
    fragment: &Fragment,
    referred: &Referred,
) -> Result<Vec<BlobDigest>> {
    if referred.is_empty() {
        return Ok(Vec::new());
    }
    let id = usize::try_from(fragment.id).unwrap_or(usize::MAX);
    let deleted = match dataset.get_fragment(id) {
        Some(fragment) => fragment.get_deletion_vector().await.map_err(from_lance)?,
        None => return Err(Error::internal("a version lacks a fragment of its own")),
    };
    let is_live = |position: &Option<u32>| match (&deleted, position) {
        (Some(deleted), Some(position)) => !deleted.contains(*position),
        _ => true,
    };
    let live = referred.iter().filter(|(position, _)| is_live(position));
    Ok(live.map(|(_, digest)| *digest).collect())
}
