//! Row sets: sets of stable row ids that a table keeps under a name, in numbered versions.
//!
//! ```text
//!   row_sets/<uid>/<name>/<version>.json   what it is, how it came to be, where its ids lie
//!   row_sets/<uid>/<name>/<version>.gone   the highest number that was dropped
//!   row_set_ids/<uid>/<id>                 the ids, as roaring's portable format has them (64 bits)
//! ```
//!
//! A version is fixed for good and its number is never used twice, so `NAME@VERSION` in a ticket or in a
//! job always means the same ids. The ids are there before the record names them, and go after it. Of two
//! who make a version at once each gets its own number: a record is only ever put where nothing is.
//!
//! Row ids count within a branch: a row that is new on a branch may have the id of another one on main. So
//! a set is of the branch that it was taken of, and is not read on another one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lakebed_core::{Error, ErrorKind, Result, RowSetName, RowSetRef, Subject, nearest_names};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use crate::row_mask::RowMask;
use crate::snapshot::Snapshot;
use crate::table::Table;

/// The newest format of a record that is understood.
const FORMAT: u32 = 1;
/// Where the records lie below the system's folder.
pub(crate) const RECORDS: &str = "row_sets";
const IDS: &str = "row_set_ids";
const RECORD_ENDING: &str = ".json";
const GONE_ENDING: &str = ".gone";
/// Bytes of sets that are kept in memory, so that a search does not read its set anew.
const CACHED_BYTES_MAX: usize = 64 << 20;
/// Bytes of what is said of a set.
const SAID_BYTES_MAX: usize = 64 << 10;

/// One version of a row set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowSet {
    format: u32,
    /// Its name.
    pub name: String,
    /// The number of the version, from 1.
    pub version: u64,
    /// What it is for.
    pub description: Option<String>,
    /// How it came to be.
    pub made_from: serde_json::Value,
    /// The branch whose rows they are; main when absent.
    pub branch: Option<String>,
    /// The version of the table that it was taken of.
    pub table_version: u64,
    /// How many ids it has.
    pub rows: u64,
    /// Bytes of its ids.
    pub bytes: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// Where its ids lie, below those of the table.
    ids: String,
}

/// A row set to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRowSet {
    /// Its name.
    pub name: RowSetName,
    /// What it is for.
    pub description: Option<String>,
    /// How it came to be.
    pub made_from: serde_json::Value,
    /// The ids.
    pub ids: RoaringTreemap,
}

/// Sets that were read lately.
#[derive(Debug, Default)]
pub(crate) struct ReadSets(Mutex<VecDeque<(String, usize, Arc<RowMask>)>>);

impl ReadSets {
    fn get(&self, path: &str) -> Option<Arc<RowMask>> {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sets.iter().position(|(known, ..)| known == path)?;
        let found = sets.remove(at)?;
        let mask = Arc::clone(&found.2);
        sets.push_front(found);
        Some(mask)
    }

    fn put(&self, path: String, bytes: usize, mask: Arc<RowMask>) {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|(known, ..)| *known != path);
        sets.push_front((path, bytes, mask));
        let mut held = 0;
        sets.retain(|(_, bytes, _)| {
            held += bytes;
            held <= CACHED_BYTES_MAX
        });
    }
}

/// What lies in the folder of one name.
#[derive(Debug, Default)]
struct Versions {
    /// Numbers that have a record.
    live: Vec<u64>,
    /// The highest number that was used.
    highest: u64,
}

impl Table {
    /// Keeps ids of rows of a version as the next version of a row set.
    ///
    /// # Errors
    /// `InvalidArgument` when the ids or the table's row sets pass their limits, or rows of the table have no
    /// stable ids.
    pub fn create_row_set<'a>(
        self: &'a Arc<Self>,
        of: &'a Snapshot,
        new: NewRowSet,
    ) -> BoxFuture<'a, Result<RowSet>> {
        async move {
            if !of.has_stable_row_ids() {
                return Err(Error::invalid(
                    "the rows of the table have no stable row ids, so a set of them would not last",
                ));
            }
            let NewRowSet { name, description, made_from, mut ids } = new;
            let said = description.as_ref().map_or(0, String::len) + made_from.to_string().len();
            if said > SAID_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "the description of row set `{name}` and how it is made take {said} bytes; at most \
                     {SAID_BYTES_MAX} are kept"
                )));
            }
            ids.optimize();
            let bytes_max = self.shared.limits.row_set_bytes_max;
            let size = ids.serialized_size();
            if size > bytes_max {
                return Err(Error::invalid(format!(
                    "the ids of row set `{name}` take {size} bytes; at most row_set_bytes_max = \
                     {bytes_max} are kept"
                )));
            }
            let _led = self.branch(of.branch()).await?.lead_surely().await?;
            let sets_max = self.shared.limits.row_sets_max;
            let known = self.shared.system.list(&self.records_folder()).await?;
            if known.iter().filter(|it| it.path.ends_with(RECORD_ENDING)).count() >= sets_max {
                return Err(Error::invalid(format!(
                    "the table has row_sets_max = {sets_max} versions of row sets; drop some first"
                )));
            }
            let mut record = RowSet {
                format: FORMAT,
                name: name.to_string(),
                version: 0,
                description,
                made_from,
                branch: of.branch().map(str::to_owned),
                table_version: of.version(),
                rows: ids.len(),
                bytes: size as u64,
                created_at_ms: self.shared.clock.now_ms(),
                ids: uuid::Uuid::now_v7().simple().to_string(),
            };
            let mask = RowMask::new(ids);
            let bytes = Bytes::from(mask.to_bytes()?);
            self.shared.system.put(&self.ids_path(&record), bytes).await?;
            loop {
                record.version = self.versions_of(&name).await?.highest + 1;
                let path = self.record_path(&name, record.version);
                if self.shared.system.create(&path, encode(&record)?).await? {
                    return Ok(record);
                }
            }
        }
        .boxed()
    }

    /// The newest version of each row set of the table, or all versions, sorted by name and number.
    ///
    /// # Errors
    /// `Corrupt` for a record that cannot be read, `Unavailable` when the store does not answer.
    pub fn list_row_sets(&self, all_versions: bool) -> BoxFuture<'_, Result<Vec<RowSet>>> {
        async move {
            let mut paths: BTreeMap<(String, u64), String> = BTreeMap::new();
            for object in self.shared.system.list(&self.records_folder()).await? {
                if let Some((name, number, RECORD_ENDING)) = parts_of(&object.path) {
                    paths.insert((name.to_owned(), number), object.path);
                }
            }
            let mut sets = Vec::with_capacity(paths.len());
            let mut paths = paths.into_iter().peekable();
            while let Some(((name, _), path)) = paths.next() {
                let is_newest = paths.peek().is_none_or(|((next, _), _)| *next != name);
                if !(is_newest || all_versions) {
                    continue;
                }
                // One that goes meanwhile is not listed.
                if let Some(bytes) = self.shared.system.get(&path).await? {
                    sets.push(decode(&path, &bytes)?);
                }
            }
            Ok(sets)
        }
        .boxed()
    }

    /// The row set of that name and version.
    ///
    /// # Errors
    /// `NotFound` naming the nearest row sets, or the versions that there are.
    pub fn row_set<'a>(&'a self, wanted: &'a RowSetRef) -> BoxFuture<'a, Result<RowSet>> {
        async move {
            let number = match wanted.version {
                Some(number) => Some(number),
                None => self.versions_of(&wanted.name).await?.live.last().copied(),
            };
            let Some(number) = number else { return Err(self.no_row_set(wanted).await) };
            let path = self.record_path(&wanted.name, number);
            match self.shared.system.get(&path).await? {
                Some(bytes) => decode(&path, &bytes),
                None => Err(self.no_row_set(wanted).await),
            }
        }
        .boxed()
    }

    /// The ids of a row set.
    ///
    /// # Errors
    /// `NotFound` when it was dropped meanwhile, `Corrupt` for ids that cannot be read.
    pub fn row_set_mask<'a>(&'a self, set: &'a RowSet) -> BoxFuture<'a, Result<Arc<RowMask>>> {
        async move {
            let path = self.ids_path(set);
            if let Some(mask) = self.shared.read_sets.get(&path) {
                return Ok(mask);
            }
            let Some(bytes) = self.shared.system.get(&path).await? else {
                let message = format!("row set `{}@{}` was dropped", set.name, set.version);
                return Err(Error::not_found(message).about(Subject::RowSet));
            };
            let ids = RoaringTreemap::deserialize_from(bytes.as_ref())
                .map_err(|error| damaged(&path).with_source(error))?;
            if ids.len() != set.rows {
                return Err(damaged(&path));
            }
            let mask = Arc::new(RowMask::new(ids));
            self.shared.read_sets.put(path, bytes.len(), Arc::clone(&mask));
            Ok(mask)
        }
        .boxed()
    }

    /// Forgets a version of a row set, or all of them without one. Says how many it were.
    ///
    /// # Errors
    /// `NotFound` naming the nearest row sets, or the versions that there are.
    pub fn drop_row_set<'a>(&'a self, wanted: &'a RowSetRef) -> BoxFuture<'a, Result<usize>> {
        async move {
            let Versions { live, highest } = self.versions_of(&wanted.name).await?;
            let gone: Vec<u64> = match wanted.version {
                None => live,
                Some(number) => live.into_iter().filter(|known| *known == number).collect(),
            };
            if gone.is_empty() {
                return Err(self.no_row_set(wanted).await);
            }
            let system = &self.shared.system;
            // First: whoever makes the next version must not take the number of one that goes.
            let mark = format!("{}/{highest}{GONE_ENDING}", self.name_folder(&wanted.name));
            system.put(&mark, Bytes::from_static(b"{}")).await?;
            for number in &gone {
                let path = self.record_path(&wanted.name, *number);
                let record = system.get(&path).await?;
                system.delete(&path).await?;
                // What cannot be read keeps its ids, which go with the table.
                if let Some(Ok(record)) = record.map(|bytes| decode(&path, &bytes)) {
                    system.delete(&self.ids_path(&record)).await?;
                }
            }
            for object in system.list(&self.name_folder(&wanted.name)).await? {
                if let Some((_, number, GONE_ENDING)) = parts_of(&object.path)
                    && number < highest
                {
                    system.delete(&object.path).await?;
                }
            }
            Ok(gone.len())
        }
        .boxed()
    }

    async fn versions_of(&self, name: &RowSetName) -> Result<Versions> {
        let mut found = Versions::default();
        for object in self.shared.system.list(&self.name_folder(name)).await? {
            if let Some((_, number, ending)) = parts_of(&object.path) {
                found.highest = found.highest.max(number);
                if ending == RECORD_ENDING {
                    found.live.push(number);
                }
            }
        }
        found.live.sort_unstable();
        Ok(found)
    }

    async fn no_row_set(&self, wanted: &RowSetRef) -> Error {
        let listed = self.shared.system.list(&self.records_folder()).await.unwrap_or_default();
        let live = listed.iter().filter_map(|object| parts_of(&object.path));
        let live: Vec<(&str, u64)> = live
            .filter(|(.., ending)| *ending == RECORD_ENDING)
            .map(|(name, number, _)| (name, number))
            .collect();
        let name = wanted.name.as_str();
        let mut numbers: Vec<u64> =
            live.iter().filter(|(known, _)| *known == name).map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        let message = match (wanted.version, numbers.as_slice()) {
            (Some(version), [_, ..]) => {
                let known: Vec<String> = numbers.iter().map(u64::to_string).collect();
                let known = known.join(", ");
                format!("row set `{name}` has no version {version}; it has {known}")
            }
            _ => {
                let mut known: Vec<&str> = live.into_iter().map(|(known, _)| known).collect();
                known.dedup();
                format!("row set `{name}` does not exist{}", nearest_names(name, known))
            }
        };
        Error::not_found(message).about(Subject::RowSet)
    }

    fn records_folder(&self) -> String {
        format!("{RECORDS}/{}", self.uid())
    }

    fn name_folder(&self, name: &RowSetName) -> String {
        format!("{}/{name}", self.records_folder())
    }

    fn record_path(&self, name: &RowSetName, number: u64) -> String {
        format!("{}/{number}{RECORD_ENDING}", self.name_folder(name))
    }

    fn ids_path(&self, set: &RowSet) -> String {
        format!("{IDS}/{}/{}", self.uid(), set.ids)
    }
}

impl Snapshot {
    /// A row set of the table as the mask of a read of this version.
    ///
    /// # Errors
    /// `NotFound` naming the nearest row sets; `InvalidArgument` for a set of rows of another branch.
    pub async fn row_set(&self, wanted: &RowSetRef) -> Result<(RowSet, Arc<RowMask>)> {
        let set = self.table().row_set(wanted).await?;
        if set.branch.as_deref() != self.branch() {
            let of = |branch: Option<&str>| branch.unwrap_or("main").to_owned();
            return Err(Error::invalid(format!(
                "row set `{}` has rows of branch `{}`, and `{}` is read",
                set.name,
                of(set.branch.as_deref()),
                of(self.branch())
            )));
        }
        let mask = self.table().row_set_mask(&set).await?;
        Ok((set, mask))
    }
}

/// The folders of a table's row sets, below `_lakebed/`.
pub(crate) fn folders_of(uid: &str) -> [String; 2] {
    [format!("{RECORDS}/{uid}"), format!("{IDS}/{uid}")]
}

/// The name, the number and the ending of an object in the folder of a name.
fn parts_of(path: &str) -> Option<(&str, u64, &'static str)> {
    let (folder, file) = path.rsplit_once('/')?;
    let name = folder.rsplit('/').next()?;
    for ending in [RECORD_ENDING, GONE_ENDING] {
        if let Some(number) = file.strip_suffix(ending).and_then(|number| number.parse().ok()) {
            return Some((name, number, ending));
        }
    }
    None
}

fn encode(set: &RowSet) -> Result<Bytes> {
    serde_json::to_vec(set)
        .map(Bytes::from)
        .map_err(|error| Error::internal("encode a row set").with_source(error))
}

fn damaged(path: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the row set at `{path}` is damaged"))
}

fn decode(path: &str, bytes: &[u8]) -> Result<RowSet> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let unread = |error: serde_json::Error| damaged(path).with_source(error);
    let Version { format } = serde_json::from_slice(bytes).map_err(unread)?;
    if format > FORMAT {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("the record `{path}` has format {format}; this server reads up to {FORMAT}"),
        ));
    }
    serde_json::from_slice(bytes).map_err(unread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Projection, ScanSpec, Slice};
    use crate::snapshot::At;
    use crate::test_lake::{self, id, lake};
    use futures::TryStreamExt as _;

    fn set(text: &str) -> RowSetRef {
        RowSetRef::parse(text).unwrap()
    }

    fn new(name: &str, ids: impl IntoIterator<Item = u64>) -> NewRowSet {
        NewRowSet {
            name: RowSetName::parse(name).unwrap(),
            description: None,
            made_from: serde_json::json!({ "row_ids": 1 }),
            ids: ids.into_iter().collect(),
        }
    }

    /// A table of five rows in as many fragments, the third of them deleted; its newest version.
    async fn five() -> (Snapshot, Arc<crate::Lake>, tempfile::TempDir) {
        let (lake, folder) = lake().await;
        test_lake::create(&lake, "t").await;
        let table = lake.table(&id("t")).await.unwrap();
        for n in 1..5 {
            let (schema, batches, options) = test_lake::row(n);
            table.append(None, schema, batches, options).await.unwrap();
        }
        table.delete_rows(None, "n = 2").await.unwrap();
        (table.snapshot(None, &At::Latest).await.unwrap(), lake, folder)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn numbers_of_versions_are_never_used_again() {
        let (snapshot, lake, _folder) = five().await;
        let table = snapshot.table();
        for ids in [vec![0, 1], vec![1, 4], vec![]] {
            table.create_row_set(&snapshot, new("s", ids)).await.unwrap();
        }
        table.create_row_set(&snapshot, new("s2", [3])).await.unwrap();
        assert_eq!(table.row_set(&set("s")).await.unwrap().version, 3);
        assert_eq!(table.drop_row_set(&set("s@3")).await.unwrap(), 1);
        assert_eq!(table.row_set(&set("s")).await.unwrap().version, 2);
        let made = table.create_row_set(&snapshot, new("s", [0])).await.unwrap();
        assert_eq!((made.version, made.rows), (4, 1));
        let error = table.row_set(&set("s@3")).await.unwrap_err();
        assert!(error.message().contains("it has 1, 2, 4"), "{error}");
        let names = |sets: Vec<RowSet>| -> Vec<(String, u64)> {
            sets.into_iter().map(|set| (set.name, set.version)).collect()
        };
        let newest = names(table.list_row_sets(false).await.unwrap());
        assert_eq!(newest, [("s".to_owned(), 4), ("s2".to_owned(), 1)]);
        assert_eq!(table.list_row_sets(true).await.unwrap().len(), 4);
        assert_eq!(table.drop_row_set(&set("s")).await.unwrap(), 3);
        assert_eq!(table.drop_row_set(&set("s")).await.unwrap_err().kind(), ErrorKind::NotFound);
        let made = table.create_row_set(&snapshot, new("s", [0])).await.unwrap();
        assert_eq!(made.version, 5);
        // The ids of what was dropped are gone.
        let [records, ids] = folders_of(table.uid());
        assert_eq!(lake.system().list(&ids).await.unwrap().len(), 2);
        // What it reads would be kept.
        drop(snapshot);
        lake.drop_table(&id("t")).await.unwrap();
        for folder in [records, ids] {
            assert!(lake.system().list(&folder).await.unwrap().is_empty(), "{folder}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mask_composes_with_slices_filters_and_deletions() {
        let (snapshot, _lake, _folder) = five().await;
        let rows = Arc::new(RowMask::new([0, 2, 3, 4, 9].into_iter().collect()));
        let read = async |filter: Option<&str>, slices: Option<Vec<Slice>>| {
            let spec = ScanSpec {
                projection: Projection::Names(vec!["_rowid".to_owned()]),
                filter: filter.map(str::to_owned),
                rows: Some(Arc::clone(&rows)),
                slices,
                ..ScanSpec::default()
            };
            let (_, batches) = snapshot.scan(&spec).await.unwrap();
            let batches: Vec<_> = batches.try_collect().await.unwrap();
            batches.iter().map(arrow_array::RecordBatch::num_rows).sum::<usize>()
        };
        assert_eq!(read(None, None).await, 3);
        assert_eq!(read(Some("n > 0"), None).await, 2);
        let slice = |fragment| Slice { fragment, start: 0, rows: 1 };
        assert_eq!(read(None, Some(vec![slice(0), slice(1), slice(3)])).await, 2);
        assert_eq!(read(Some("n > 0"), Some(vec![slice(0), slice(3)])).await, 1);
        assert_eq!(snapshot.count_of(None, Some(&rows)).await.unwrap(), 3);
        assert_eq!(snapshot.count_of(Some("n < 4"), Some(&rows)).await.unwrap(), 2);
        let found = snapshot.row_ids_of(None, Some(&rows)).await.unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), [0, 3, 4]);
        let none = Arc::new(RowMask::default());
        assert_eq!(snapshot.count_of(None, Some(&none)).await.unwrap(), 0);
    }
}
