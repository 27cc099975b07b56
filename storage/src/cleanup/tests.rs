//! Cleaning against a plain model: whatever is left reads as it always did.

use std::collections::BTreeMap;
use std::path::Path as FsPath;

use arrow_array::Int64Array;
use bytes::Bytes;
use lakebed_core::TagName;

use super::*;
use crate::{At, Lake, ScanSpec, test_lake};

async fn table(lake: &Lake) -> Arc<Table> {
    lake.table(&test_lake::id("t")).await.unwrap()
}

async fn append(table: &Arc<Table>, branch: Option<&str>, n: i64) -> u64 {
    let (schema, batches, options) = test_lake::row(n);
    table.append(branch, schema, batches, options).await.unwrap().version
}

async fn overwrite(table: &Arc<Table>, branch: Option<&str>, n: i64) -> u64 {
    let (schema, batches, options) = test_lake::row(n);
    table.overwrite(branch, schema, batches, options).await.unwrap().version
}

/// The rows of a version, sorted.
async fn rows(table: &Arc<Table>, branch: Option<&str>, version: u64) -> Result<Vec<i64>> {
    let snapshot = table.snapshot(branch, &At::Version(version)).await?;
    let (_, mut batches) = snapshot.scan(&ScanSpec::default()).await?;
    let mut rows = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
        rows.extend(column.values().iter().copied());
    }
    rows.sort_unstable();
    Ok(rows)
}

fn rule(expired: impl IntoIterator<Item = u64>) -> CleanRule {
    CleanRule { expired: expired.into_iter().collect(), ..CleanRule::default() }
}

/// Files below a folder, by their paths in it.
fn files(folder: &FsPath) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path.strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_versions_go_with_what_only_they_use() {
    let (lake, folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    for n in 1..=3 {
        overwrite(&table, None, n).await;
    }
    append(&table, None, 4).await;
    let stored = folder.path().join("default/t.lance");
    let before = files(&stored);

    let dry = table.clean(None, CleanRule { is_dry_run: true, ..rule(1..=9) }).await.unwrap();
    assert_eq!(files(&stored), before, "a dry run deletes nothing");
    assert_eq!(dry.versions, [1, 2, 3, 4]);
    let counts = |kind: &str| dry.files.get(kind).copied().unwrap_or(0);
    // Version 4 overwrote 3 and is the one that 5 added to.
    assert_eq!((counts("manifest"), counts("data"), counts("transaction")), (4, 3, 4));
    let done = table.clean(None, rule(1..=9)).await.unwrap();
    assert_eq!(done, dry);
    assert_eq!(files(&stored).len(), before.len() - 11);
    assert_eq!(rows(&table, None, 5).await.unwrap(), [3, 4]);
    for version in 1..=4 {
        let error = rows(&table, None, version).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("was cleaned"), "{error}");
    }
    assert_eq!(table.clean(None, rule(1..=9)).await.unwrap(), Cleaned::default());
    table.snapshot(None, &At::Latest).await.unwrap().validate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_needs_stays() {
    let (lake, _folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    for n in 1..=6 {
        overwrite(&table, None, n).await;
    }
    let gold = TagName::parse("gold").unwrap();
    table.create_tag(&gold, None, 2).await.unwrap();
    let main = table.branch(None).await.unwrap();
    let mut dataset = Dataset::clone(&*main.latest().await.unwrap());
    dataset.create_branch("exp", 3_u64, None).await.unwrap();
    let reader = table.snapshot(None, &At::Version(4)).await.unwrap();
    table.snapshot(None, &At::Version(5)).await.unwrap().lease(i64::MAX);

    let cleaned = table.clean(None, rule(1..=6)).await.unwrap();
    assert_eq!(cleaned.versions, [1, 6]);
    let by = |version| cleaned.kept.get(&version).map(String::as_str);
    assert_eq!((by(2), by(3)), (Some("tag `gold`"), Some("branch `exp`")));
    assert_eq!((by(4), by(5)), (Some("a reader or a ticket"), Some("a reader or a ticket")));
    for version in 2..=5 {
        assert_eq!(rows(&table, None, version).await.unwrap(), [version as i64 - 1]);
    }
    // The branch goes on with its parent's file when the parent lets it go.
    append(&table, Some("exp"), 10).await;
    drop(reader);
    table.delete_tag(&gold).await.unwrap();
    assert_eq!(table.clean(None, rule(1..=6)).await.unwrap().versions, [2, 4]);
    let exp = table.branch(Some("exp")).await.unwrap().latest().await.unwrap().version().version;
    assert_eq!(rows(&table, Some("exp"), exp).await.unwrap(), [2, 10]);
    assert_eq!(rows(&table, None, 7).await.unwrap(), [6]);
    let error = table.create_tag(&gold, None, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_keeps_the_files_of_its_parent() {
    let (lake, _folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    append(&table, None, 1).await;
    let main = table.branch(None).await.unwrap();
    let mut dataset = Dataset::clone(&*main.latest().await.unwrap());
    dataset.create_branch("exp", 2_u64, None).await.unwrap();
    let first = append(&table, Some("exp"), 2).await;
    overwrite(&table, None, 9).await;
    // Not even when the version that it was made of is gone, as another tool may do.
    let versions = main.latest().await.unwrap();
    let path = versions.branch_location().path.clone();
    let listed = TableFiles::list(table.shared.root.store(), &path).await.unwrap();
    let is_second = |file: &&StoredFile| file.kind == FileKind::Manifest(2);
    let second = listed.files.iter().find(is_second).unwrap();
    table.shared.root.store().delete(&second.path).await.unwrap();
    assert_eq!(table.clean(None, rule(1..=2)).await.unwrap().versions, [1]);
    assert_eq!(rows(&table, Some("exp"), first).await.unwrap(), [0, 1, 2]);
    // A branch is cleaned by itself, and its parent's files are not its own.
    let second = overwrite(&table, Some("exp"), 5).await;
    let cleaned = table.clean(Some("exp"), rule(0..second)).await.unwrap();
    assert!(cleaned.versions.contains(&first), "{cleaned:?}");
    assert_eq!(rows(&table, Some("exp"), second).await.unwrap(), [5]);
    assert_eq!(rows(&table, None, 3).await.unwrap(), [9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleaning_that_was_cut_off_is_finished_by_the_next() {
    let (lake, folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    overwrite(&table, None, 1).await;
    let main = table.branch(None).await.unwrap();
    let base = main.latest().await.unwrap().branch_location().path.clone();
    let journals = Journals::of(&table.shared.system, table.uid(), None);
    let listed = TableFiles::list(table.shared.root.store(), &base).await.unwrap();
    let doomed: BTreeSet<u64> = [1].into();
    let (gone, stays) = table.names(&main, &main.latest().await.unwrap(), &doomed).await.unwrap();
    let goes = |file: &&StoredFile| gone.has(&file.kind) && !stays.has(&file.kind);
    let left: Vec<StoredFile> = listed.files.iter().filter(goes).cloned().collect();
    assert_eq!(left.len(), 2, "a data file and a transaction");
    // As far as a process came that was killed between manifests and files.
    journals.write(&left).await.unwrap();
    let is_first = |file: &&StoredFile| file.kind == FileKind::Manifest(1);
    let first = listed.files.iter().find(is_first).unwrap();
    table.shared.root.store().delete(&first.path).await.unwrap();

    let stored = folder.path().join("default/t.lance");
    let cleaned = table.clean(None, CleanRule::default()).await.unwrap();
    assert_eq!(cleaned.files.values().sum::<u64>(), 2);
    assert_eq!(cleaned.orphans, 0);
    assert_eq!(files(&stored).iter().filter(|name| name.starts_with("data/")).count(), 1);
    assert!(table.shared.system.list("cleanup").await.unwrap().is_empty());
    assert_eq!(rows(&table, None, 2).await.unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_deletes_nothing_that_a_version_names() {
    let (lake, _folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    append(&table, None, 1).await;
    let main = table.branch(None).await.unwrap();
    let base = main.latest().await.unwrap().branch_location().path.clone();
    let listed = TableFiles::list(table.shared.root.store(), &base).await.unwrap();
    // Killed before the manifests went.
    let journals = Journals::of(&table.shared.system, table.uid(), None);
    journals.write(&listed.files).await.unwrap();
    let cleaned = table.clean(None, CleanRule::default()).await.unwrap();
    assert_eq!(cleaned, Cleaned::default());
    assert_eq!(rows(&table, None, 1).await.unwrap(), [0]);
    assert_eq!(rows(&table, None, 2).await.unwrap(), [0, 1]);

    let path = format!("cleanup/{}/main/00.json", table.uid());
    table.shared.system.put(&path, Bytes::from_static(b"{\"format\":2}")).await.unwrap();
    let error = table.clean(None, rule(1..=1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(rows(&table, None, 1).await.unwrap(), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_old_files_of_a_table_go_when_no_version_names_them() {
    let (lake, folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    let stored = folder.path().join("default/t.lance");
    let before = files(&stored);
    let orphans =
        ["data/a.lance", "data/a/b.blob", "_indices/i/index.idx", "_deletions/0-1-2.arrow"];
    let others = ["data/notes.txt", "notes.txt", "_versions/notes.json", "_refs/tags/broken"];
    for name in orphans.iter().chain(&others) {
        let path = stored.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    std::fs::remove_file(stored.join("_refs/tags/broken")).unwrap();
    let now_ms = table.shared.clock.now_ms();
    let young = CleanRule { orphans_before_ms: now_ms - 60_000, ..CleanRule::default() };
    let kept = Cleaned { young: 4, ..Cleaned::default() };
    assert_eq!(table.clean(None, young).await.unwrap(), kept);
    let spared = CleanRule {
        orphans_before_ms: now_ms + 60_000,
        spared: ["a".to_owned()].into(),
        is_dry_run: true,
        ..CleanRule::default()
    };
    assert_eq!(table.clean(None, spared).await.unwrap().orphans, 2);
    let old = CleanRule { orphans_before_ms: now_ms + 60_000, ..CleanRule::default() };
    let cleaned = table.clean(None, old).await.unwrap();
    assert_eq!((cleaned.orphans, cleaned.bytes), (4, 4));
    let mut left = before;
    left.extend(others[..3].iter().map(|name| (*name).to_owned()));
    left.sort();
    assert_eq!(files(&stored), left);
    assert!(!stored.join("data/a").exists(), "empty folders go, too");
}

/// What a random history did: the rows of each version of each branch that is not cleaned.
type Model = BTreeMap<(Option<String>, u64), Vec<i64>>;

/// Numbers that look random, the same for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

async fn check(table: &Arc<Table>, model: &Model, cleaned: &[(Option<String>, u64)], seed: u64) {
    for ((branch, version), known) in model {
        let found = rows(table, branch.as_deref(), *version).await;
        let found = found.unwrap_or_else(|error| {
            panic!("seed {seed}: version {version} of {branch:?}: {}", error.report())
        });
        assert_eq!(found, *known, "seed {seed}: version {version} of {branch:?}");
    }
    for (branch, version) in cleaned {
        let found = rows(table, branch.as_deref(), *version).await;
        assert!(found.is_err(), "seed {seed}: version {version} of {branch:?} is still there");
    }
}

async fn history(seed: u64, steps: usize) {
    let (lake, _folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let table = table(&lake).await;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model::from([((None, 1), vec![0])]);
    let mut newest: BTreeMap<Option<String>, u64> = [(None, 1)].into();
    let mut cleaned: Vec<(Option<String>, u64)> = Vec::new();
    let mut kept: BTreeMap<(Option<String>, u64), usize> = BTreeMap::new();
    let mut tags = 0;
    for step in 1..=steps {
        let n = step as i64;
        let branches: Vec<Option<String>> = newest.keys().cloned().collect();
        let branch = branches[random.below(branches.len() as u64) as usize].clone();
        let name = branch.as_deref();
        let head = newest[&branch];
        let mut now = model[&(branch.clone(), head)].clone();
        let of_branch: Vec<u64> =
            model.keys().filter(|key| key.0 == branch).map(|key| key.1).collect();
        let any = of_branch[random.below(of_branch.len() as u64) as usize];
        let version = match random.below(12) {
            0..=3 => {
                now.push(n);
                append(&table, name, n).await
            }
            4 => {
                now = vec![n];
                overwrite(&table, name, n).await
            }
            5 | 6 if !now.is_empty() => {
                let victim = now[random.below(now.len() as u64) as usize];
                now.retain(|row| *row != victim);
                table.delete_rows(name, &format!("n = {victim}")).await.unwrap().1
            }
            7 => {
                now = model[&(branch.clone(), any)].clone();
                table.restore(name, any).await.unwrap()
            }
            8 => {
                tags += 1;
                let tag = TagName::parse(&format!("tag{tags}")).unwrap();
                table.create_tag(&tag, name, any).await.unwrap();
                *kept.entry((branch.clone(), any)).or_default() += 1;
                continue;
            }
            9 if newest.len() < 4 => {
                let new = format!("b{}", newest.len());
                let from = table.branch(name).await.unwrap().latest().await.unwrap();
                let mut dataset = Dataset::clone(&*from);
                let source = (name, Some(any));
                let made = dataset.create_branch(&new, source, None).await.unwrap();
                *kept.entry((branch.clone(), any)).or_default() += 1;
                let version = made.version().version;
                // The branch keeps its own beginning, too.
                *kept.entry((Some(new.clone()), version)).or_default() += 1;
                model.insert((Some(new.clone()), version), model[&(branch, any)].clone());
                newest.insert(Some(new), version);
                continue;
            }
            _ => {
                let share = random.below(10);
                let expired: Vec<u64> =
                    of_branch.iter().copied().filter(|_| random.below(10) < share).collect();
                let free = |version: &&u64| {
                    **version != head && !kept.contains_key(&(branch.clone(), **version))
                };
                let expected: Vec<u64> = expired.iter().filter(free).copied().collect();
                let done = table.clean(name, rule(expired)).await.unwrap();
                assert_eq!(done.versions, expected, "seed {seed} step {step}");
                for version in expected {
                    model.remove(&(branch.clone(), version));
                    cleaned.push((branch.clone(), version));
                }
                check(&table, &model, &cleaned, seed).await;
                continue;
            }
        };
        now.sort_unstable();
        newest.insert(branch.clone(), version);
        model.insert((branch, version), now);
    }
    check(&table, &model, &cleaned, seed).await;
    // With nothing but what is kept, no file is there that no version names.
    for (branch, head) in &newest {
        let all: Vec<u64> = (1..*head).collect();
        let done = table.clean(branch.as_deref(), rule(all)).await.unwrap();
        for version in done.versions {
            model.remove(&(branch.clone(), version));
            cleaned.push((branch.clone(), version));
        }
    }
    check(&table, &model, &cleaned, seed).await;
    let orphans_before_ms = table.shared.clock.now_ms() + 60_000;
    for branch in newest.keys() {
        // What a branch used of its parent's and uses no more.
        let rule = CleanRule { orphans_before_ms, ..CleanRule::default() };
        table.clean(branch.as_deref(), rule).await.unwrap();
        let branch = table.branch(branch.as_deref()).await.unwrap();
        let latest = branch.latest().await.unwrap();
        let (_, stays) = table.names(&branch, &latest, &BTreeSet::new()).await.unwrap();
        let base = latest.branch_location().path.clone();
        for file in TableFiles::list(table.shared.root.store(), &base).await.unwrap().files {
            let is_named = matches!(file.kind, FileKind::Manifest(_)) || stays.has(&file.kind);
            assert!(is_named, "seed {seed}: {} is left", file.path);
        }
    }
    check(&table, &model, &cleaned, seed).await;
}

/// `LAKEBED_SOAK` asks for the long form.
#[tokio::test(flavor = "multi_thread")]
async fn random_histories_read_as_before_after_every_cleaning() {
    let seeds = if std::env::var_os("LAKEBED_SOAK").is_some() { 400 } else { 12 };
    for seed in 1..=seeds {
        history(seed, 60).await;
    }
}
