//! Sweeps against a plain model: whatever a version shows reads as it always did, and what nothing refers
//! to is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FsPath, PathBuf};

use arrow_array::{Array, ArrayRef, Int64Array, LargeBinaryArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::TagName;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::blob::BLOB_IN_TABLE_BYTES_MAX;
use crate::{
    At, BatchStream, Claimed, CleanRule, Projection, ScanSpec, Table, WriteOptions, test_lake,
};

/// The large blob of that number.
fn large(n: u8) -> Vec<u8> {
    let mut bytes = vec![n; BLOB_IN_TABLE_BYTES_MAX as usize + 1];
    bytes[..8].copy_from_slice(b"contents");
    bytes
}

fn digest(bytes: &[u8]) -> BlobDigest {
    BlobDigest::new(Sha256::digest(bytes).into())
}

fn rows(rows: &[(i64, Option<&[u8]>)]) -> (SchemaRef, BatchStream, WriteOptions) {
    let metadata = [("lance-encoding:blob".to_owned(), "true".to_owned())].into();
    let blob = Field::new("data", DataType::LargeBinary, true).with_metadata(metadata);
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), blob]));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let cells: ArrayRef = Arc::new(LargeBinaryArray::from_iter(rows.iter().map(|row| row.1)));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![numbers, cells]).unwrap();
    let options =
        WriteOptions { write_id: None, mode: String::new(), schema_digest: String::new() };
    (schema, futures::stream::iter([Ok(batch)]).boxed(), options)
}

async fn create(lake: &Lake, name: &str, cells: &[(i64, Option<&[u8]>)]) -> Arc<Table> {
    let (schema, batches, options) = rows(cells);
    lake.create_table(&test_lake::id(name), schema, batches, options).await.unwrap();
    lake.table(&test_lake::id(name)).await.unwrap()
}

async fn append(table: &Table, branch: Option<&str>, cells: &[(i64, Option<&[u8]>)]) -> u64 {
    let (schema, batches, options) = rows(cells);
    table.append(branch, schema, batches, options).await.unwrap().version
}

/// The digests of the blobs of a version, read byte by byte, by `n`.
async fn read(
    table: &Arc<Table>,
    branch: Option<&str>,
    at: &At,
) -> Result<BTreeMap<i64, BlobDigest>> {
    let snapshot = table.snapshot(branch, at).await?;
    let columns = vec!["n".to_owned(), "_rowid".to_owned()];
    let spec = ScanSpec { projection: Projection::Names(columns), ..ScanSpec::default() };
    let (_, mut batches) = snapshot.scan(&spec).await?;
    let mut found = BTreeMap::new();
    while let Some(batch) = batches.try_next().await? {
        let numbers = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        let ids = batch.column_by_name("_rowid").unwrap().clone();
        let ids = ids.as_any().downcast_ref::<arrow_array::UInt64Array>().unwrap().clone();
        for row in 0..batch.num_rows() {
            let Some(blob) = snapshot.blob("data", ids.value(row)).await? else { continue };
            let mut chunks = blob.read(0..blob.size());
            let mut hasher = Sha256::new();
            while let Some(chunk) = chunks.try_next().await? {
                hasher.update(&chunk);
            }
            found.insert(numbers.value(row), BlobDigest::new(hasher.finalize().into()));
        }
    }
    Ok(found)
}

/// The large blobs that are stored.
fn stored(folder: &FsPath) -> BTreeSet<BlobDigest> {
    blob_files(folder)
        .iter()
        .filter_map(|path| BlobDigest::parse(path.file_name()?.to_str()?))
        .collect()
}

fn blob_files(folder: &FsPath) -> Vec<PathBuf> {
    let Ok(folders) = std::fs::read_dir(folder.join("_blobs/sha256")) else { return Vec::new() };
    let inside = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    inside.map(|entry| entry.unwrap().path()).collect()
}

/// All that nothing refers to, however young.
fn all() -> BlobSweepRule {
    BlobSweepRule { before_ms: i64::MAX, ..BlobSweepRule::default() }
}

fn counts(swept: &SweptBlobs) -> (u64, BTreeMap<&'static str, u64>) {
    (swept.deleted.blobs, swept.kept.iter().map(|(why, count)| (*why, count.blobs)).collect())
}

async fn upload(lake: &Lake, bytes: &[u8]) -> String {
    let uploads = lake.uploads();
    let id = uploads.create().await.unwrap();
    let body = futures::stream::iter([Ok(Bytes::copy_from_slice(bytes))]).boxed();
    uploads.append(&id, 0, body).await.unwrap();
    let claimed = Claimed::Sha256(digest(bytes).hex());
    uploads.complete(&id, bytes.len() as u64, &claimed).await.unwrap();
    id
}

async fn clean_all(table: &Table, branch: Option<&str>) -> Vec<u64> {
    let expired = table.retention_facts(branch).await.unwrap().numbers;
    table.clean(branch, CleanRule { expired, ..CleanRule::default() }).await.unwrap().versions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_when_no_version_refers_to_it() {
    let (lake, folder) = test_lake::lake().await;
    let (a, b) = (large(1), large(2));
    let table = create(&lake, "t", &[(1, Some(&a)), (2, Some(&b)), (3, Some(b"small"))]).await;
    let other = create(&lake, "other", &[(1, Some(&b))]).await;
    assert_eq!(stored(folder.path()), [digest(&a), digest(&b)].into());

    let swept = lake.sweep_blobs(all()).await.unwrap();
    assert_eq!(counts(&swept), (0, [("version", 2)].into()));
    // The rows are deleted, and an old version still shows them.
    table.delete_rows(None, "n < 3").await.unwrap();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (0, [("version", 2)].into()));
    assert_eq!(clean_all(&table, None).await, [1]);
    let young = BlobSweepRule { before_ms: 0, ..BlobSweepRule::default() };
    let kept = [("version", 1), ("young", 1)].into();
    assert_eq!(counts(&lake.sweep_blobs(young).await.unwrap()), (0, kept));
    let dry = lake.sweep_blobs(BlobSweepRule { is_dry_run: true, ..all() }).await.unwrap();
    assert_eq!(stored(folder.path()).len(), 2, "a dry run deletes nothing");
    let done = lake.sweep_blobs(all()).await.unwrap();
    assert_eq!(done, dry);
    assert_eq!(done.deleted, BlobCount { blobs: 1, bytes: a.len() as u64 });
    assert_eq!(stored(folder.path()), [digest(&b)].into());
    let read_of = read(&table, None, &At::Latest).await.unwrap();
    assert_eq!(read_of, [(3, digest(b"small"))].into());
    assert_eq!(read(&other, None, &At::Latest).await.unwrap(), [(1, digest(&b))].into());

    // What it found is remembered, and derived: broken, it is found anew.
    let path = references_path(other.uid());
    let system = lake.system();
    assert!(
        String::from_utf8_lossy(&system.get(&path).await.unwrap().unwrap())
            .contains(&digest(&b).hex())
    );
    system.put(&path, Bytes::from_static(b"{")).await.unwrap();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (0, [("version", 1)].into()));
    // A dropped table counts while somebody reads it.
    let reader = other.snapshot(None, &At::Latest).await.unwrap();
    lake.drop_table(&test_lake::id("other")).await.unwrap();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (0, [("version", 1)].into()));
    drop(reader);
    lake.finish_drops().await.unwrap();
    assert!(system.get(&path).await.unwrap().is_none());
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (1, BTreeMap::new()));
    assert!(stored(folder.path()).is_empty());
    // Stored anew when it is sent again.
    append(&table, None, &[(9, Some(&b))]).await;
    assert_eq!(read(&table, None, &At::Latest).await.unwrap()[&9], digest(&b));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_parts_and_writes_under_way_keep_blobs() {
    let (lake, folder) = test_lake::lake().await;
    let (a, b, c) = (large(1), large(2), large(3));
    let table = create(&lake, "t", &[(0, None)]).await;
    for (n, bytes) in [(1, &a), (2, &b), (3, &c)] {
        append(&table, None, &[(n, Some(bytes))]).await;
    }
    table.delete_rows(None, "n > 0").await.unwrap();
    clean_all(&table, None).await;
    let id = upload(&lake, &a).await;
    let multipart = table.create_multipart(None).await.unwrap();
    let (schema, batches, _) = rows(&[(5, Some(&b))]);
    table.write_part(None, &multipart, "p", false, schema, batches).await.unwrap();
    let claims = lake.shared.write_claims();
    claims.claim(digest(&c)).await.unwrap();

    let kept: BTreeMap<&str, u64> = [("upload", 1), ("write", 2)].into();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (0, kept));
    drop(claims);
    let kept = [("upload", 1), ("write", 1)].into();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (1, kept));
    assert_eq!(stored(folder.path()), [digest(&a), digest(&b)].into());
    table.complete_multipart(None, &multipart).await.unwrap();
    assert_eq!(read(&table, None, &At::Latest).await.unwrap(), [(5, digest(&b))].into());
    lake.uploads().abort(&id).await.unwrap();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (1, [("version", 1)].into()));
    assert_eq!(stored(folder.path()), [digest(&b)].into());

    // A part that is thrown away keeps nothing.
    let multipart = table.create_multipart(None).await.unwrap();
    let (schema, batches, _) = rows(&[(6, Some(&c))]);
    table.write_part(None, &multipart, "p", false, schema, batches).await.unwrap();
    table.abort_multipart(None, &multipart).await.unwrap();
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (1, [("version", 1)].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_finds_its_blob_marked_waits_and_stores_it_anew() {
    let (lake, folder) = test_lake::lake().await;
    let a = large(1);
    let table = create(&lake, "t", &[(0, Some(&a))]).await;
    table.delete_rows(None, "true").await.unwrap();
    clean_all(&table, None).await;
    // As far as a sweep comes before it deletes.
    let mut marks = Marks::new(Arc::clone(&lake.shared.blob_claims), None);
    assert!(marks.mark(digest(&a)).await.unwrap());
    let writing = tokio::spawn({
        let (table, a) = (Arc::clone(&table), a.clone());
        async move { append(&table, None, &[(1, Some(&a))]).await }
    });
    while !lake.shared.blob_claims.is_claimed(&digest(&a)) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!writing.is_finished());
    std::fs::remove_file(&blob_files(folder.path())[0]).unwrap();
    marks.unmark(&digest(&a)).await.unwrap();
    writing.await.unwrap();
    assert_eq!(read(&table, None, &At::Latest).await.unwrap(), [(1, digest(&a))].into());
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (0, [("version", 1)].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_when_a_table_cannot_be_read_or_a_backup_runs() {
    let (lake, folder) = test_lake::lake().await;
    let a = large(1);
    let table = create(&lake, "t", &[(1, Some(&a))]).await;
    lake.drop_table(&test_lake::id("t")).await.unwrap();
    drop(table);
    let broken = create(&lake, "broken", &[(1, None)]).await;
    let versions = folder.path().join("default/broken.lance/_versions");
    let manifest = std::fs::read_dir(&versions).unwrap().map(|entry| entry.unwrap().path());
    let manifest =
        manifest.into_iter().find(|path| path.extension().is_some_and(|it| it == "manifest"));
    let manifest = manifest.unwrap();
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &whole[..whole.len() - 4]).unwrap();
    let error = lake.sweep_blobs(all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.report().contains("default/broken.lance"), "{}", error.report());
    std::fs::write(&manifest, &whole).unwrap();
    // A missing data file is no reason to take a blob for free either.
    let data = folder.path().join("default/broken.lance/data");
    let moved = folder.path().join("aside");
    std::fs::rename(&data, &moved).unwrap();
    let error = lake.sweep_blobs(all()).await.unwrap_err();
    assert!(error.report().contains("default/broken.lance"), "{}", error.report());
    std::fs::rename(&moved, &data).unwrap();

    let backup = lake.shared.pins.keep_all().await;
    assert_eq!(lake.sweep_blobs(all()).await.unwrap_err().kind(), ErrorKind::Busy);
    let dry = lake.sweep_blobs(BlobSweepRule { is_dry_run: true, ..all() }).await.unwrap();
    assert_eq!(dry.deleted.blobs, 1);
    assert_eq!(stored(folder.path()).len(), 1);
    drop(backup);
    assert_eq!(counts(&lake.sweep_blobs(all()).await.unwrap()), (1, BTreeMap::new()));
    drop(broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_written_goes_and_what_is_not_known_stays() {
    let (lake, folder) = test_lake::lake().await;
    let sub = folder.path().join("_blobs/sha256/ab");
    std::fs::create_dir_all(&sub).unwrap();
    let name = "ab".repeat(32);
    let left = [format!("{name}#1"), format!("{name}#23")];
    let unknown =
        ["notes.txt".to_owned(), format!("{name}#"), format!("{name}#1x"), "#1".to_owned()];
    for name in left.iter().chain(&unknown) {
        std::fs::write(sub.join(name), b"xyz").unwrap();
    }
    let young = BlobSweepRule { before_ms: 0, ..BlobSweepRule::default() };
    assert_eq!(lake.sweep_blobs(young).await.unwrap(), SweptBlobs::default());
    let swept = lake.sweep_blobs(all()).await.unwrap();
    assert_eq!(swept.half_written, BlobCount { blobs: 2, bytes: 6 });
    let names = blob_files(folder.path());
    let names: BTreeSet<&str> =
        names.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(names, unknown.iter().map(String::as_str).collect());
}

/// Numbers that look random, the same for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

/// The blobs of each version that is there, by table, branch and version.
type Model = BTreeMap<(usize, Option<String>, u64), BTreeMap<i64, BlobDigest>>;

struct History {
    lake: Arc<Lake>,
    folder: tempfile::TempDir,
    tables: BTreeMap<usize, Arc<Table>>,
    model: Model,
    kept: BTreeSet<(usize, Option<String>, u64)>,
    blobs: Vec<Vec<u8>>,
    uploads: Vec<(String, BlobDigest)>,
    random: Random,
}

impl History {
    fn newest(&self, table: usize, branch: &Option<String>) -> u64 {
        let of = self.model.keys().filter(|key| (key.0, &key.1) == (table, branch));
        of.map(|key| key.2).max().unwrap()
    }

    async fn step(&mut self, step: usize) {
        let n = step as i64;
        let blob = self.blobs[self.random.below(self.blobs.len())].clone();
        if self.tables.is_empty() || (self.tables.len() < 3 && self.random.below(6) == 0) {
            let table = create(&self.lake, &format!("t{step}"), &[(n, Some(&blob))]).await;
            self.tables.insert(step, table);
            self.model.insert((step, None, 1), [(n, digest(&blob))].into());
            return;
        }
        let places: BTreeSet<(usize, Option<String>)> =
            self.model.keys().map(|key| (key.0, key.1.clone())).collect();
        let places: Vec<_> = places.into_iter().collect();
        let (at, branch) = places[self.random.below(places.len())].clone();
        let table = Arc::clone(&self.tables[&at]);
        let name = branch.as_deref();
        let head = self.newest(at, &branch);
        let mut now = self.model[&(at, branch.clone(), head)].clone();
        let versions: Vec<u64> = self
            .model
            .keys()
            .filter(|key| (key.0, &key.1) == (at, &branch))
            .map(|key| key.2)
            .collect();
        let any = versions[self.random.below(versions.len())];
        let version = match self.random.below(13) {
            0..=2 => {
                now.insert(n, digest(&blob));
                append(&table, name, &[(n, Some(&blob))]).await
            }
            3 => {
                now = [(n, digest(&blob))].into();
                let (schema, batches, options) = rows(&[(n, Some(&blob))]);
                table.overwrite(name, schema, batches, options).await.unwrap().version
            }
            4..=6 if !now.is_empty() => {
                let victim = *now.keys().nth(self.random.below(now.len())).unwrap();
                now.remove(&victim);
                table.delete_rows(name, &format!("n = {victim}")).await.unwrap().1
            }
            7 => {
                now = self.model[&(at, branch.clone(), any)].clone();
                table.restore(name, any).await.unwrap()
            }
            8 => {
                let tag = TagName::parse(&format!("tag{step}")).unwrap();
                table.create_tag(&tag, name, any).await.unwrap();
                self.kept.insert((at, branch, any));
                return;
            }
            9 if places.len() < 6 => {
                let from = table.branch(name).await.unwrap().latest().await.unwrap();
                let mut dataset = lance::Dataset::clone(&*from);
                let (new, source) = (format!("b{step}"), (name, Some(any)));
                let made = dataset.create_branch(&new, source, None).await.unwrap();
                self.kept.insert((at, branch.clone(), any));
                let shown = self.model[&(at, branch, any)].clone();
                self.model.insert((at, Some(new), made.version().version), shown);
                return;
            }
            10 => {
                let id = upload(&self.lake, &blob).await;
                self.uploads.push((id, digest(&blob)));
                return;
            }
            11 if self.tables.len() > 1 => {
                self.lake.drop_table(&test_lake::id(&format!("t{at}"))).await.unwrap();
                self.tables.remove(&at);
                self.model.retain(|key, _| key.0 != at);
                self.kept.retain(|key| key.0 != at);
                return;
            }
            _ => {
                for version in clean_all(&table, name).await {
                    self.model.remove(&(at, branch.clone(), version));
                }
                if let Some((id, _)) = self.uploads.pop() {
                    self.lake.uploads().abort(&id).await.unwrap();
                }
                return;
            }
        };
        self.model.insert((at, branch, version), now);
    }

    /// A sweep leaves exactly what is needed, and all of it reads.
    async fn check(&self, seed: u64) -> u64 {
        let before = stored(self.folder.path());
        let swept = self.lake.sweep_blobs(all()).await.unwrap();
        let mut needed: BTreeSet<BlobDigest> =
            self.model.values().flat_map(|rows| rows.values().copied()).collect();
        needed.extend(self.uploads.iter().map(|(_, digest)| *digest));
        let needed: BTreeSet<BlobDigest> = needed.intersection(&before).copied().collect();
        assert_eq!(stored(self.folder.path()), needed, "seed {seed}");
        for ((at, branch, version), shown) in &self.model {
            let read = read(&self.tables[at], branch.as_deref(), &At::Version(*version)).await;
            assert_eq!(&read.unwrap(), shown, "seed {seed}: version {version} of {branch:?}");
        }
        swept.deleted.blobs
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_keep_exactly_what_is_needed() {
    let mut deleted = 0;
    for seed in 1..=3 {
        let (lake, folder) = test_lake::lake().await;
        let mut history = History {
            lake,
            folder,
            tables: BTreeMap::new(),
            model: Model::new(),
            kept: BTreeSet::new(),
            blobs: (1..=4).map(large).collect(),
            uploads: Vec::new(),
            random: Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed) | 1),
        };
        for step in 1..=40 {
            history.step(step).await;
            if step % 8 == 0 {
                deleted += history.check(seed).await;
            }
        }
    }
    assert!(deleted > 0, "no history left a blob behind");
}
