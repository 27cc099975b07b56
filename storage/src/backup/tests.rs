//! Backups and restores of small lakes in temporary folders.

use std::path::Path;
use std::sync::Arc;

use lakebed_core::ErrorKind;

use super::{BackupProgress, BackupSpec, RestoreTable, restore, restore_tables};
use crate::snapshot::At;
use crate::test_lake::{create, id, lake, row};
use crate::{Lake, LakeOptions};

fn options(folder: &Path) -> LakeOptions {
    LakeOptions::at(folder.to_str().unwrap())
}

async fn append(lake: &Arc<Lake>, table: &str, n: i64) {
    let (schema, batches, options) = row(n);
    lake.table(&id(table)).await.unwrap().append(None, schema, batches, options).await.unwrap();
}

async fn backup(lake: &Arc<Lake>, to: &Path) -> super::Backup {
    let progress = BackupProgress::default();
    lake.backup(&BackupSpec::to(to.to_str().unwrap()), &progress).await.unwrap()
}

async fn rows(lake: &Arc<Lake>, table: &str) -> Vec<u64> {
    let table = lake.table(&id(table)).await.unwrap();
    let mut rows = Vec::new();
    for version in table.list_versions(None, 100, None).await.unwrap().into_iter().rev() {
        let snapshot = table.snapshot(None, &At::Version(version.version)).await.unwrap();
        snapshot.validate().await.unwrap();
        rows.push(snapshot.count_rows().await.unwrap());
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_new_is_copied() {
    let (lake, _folder) = lake().await;
    let there = tempfile::tempdir().unwrap();
    let place = there.path().join("copy");
    create(&lake, "t").await;
    append(&lake, "t", 1).await;
    let first = backup(&lake, &place).await;
    assert!(!first.is_incremental);
    assert_eq!(first.counts.versions_copied, 2);
    let second = backup(&lake, &place).await;
    assert!(second.is_incremental);
    assert_eq!((second.counts.versions_copied, second.counts.files_copied), (0, 0));
    append(&lake, "t", 2).await;
    let third = backup(&lake, &place).await;
    assert_eq!((third.counts.versions_copied, third.counts.versions_kept), (1, 2));
    drop(lake);
    let copy = Lake::open(options(&place)).await.unwrap();
    assert_eq!(rows(&copy, "t").await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_takes_the_place_of_the_one_before() {
    let (lake, _folder) = lake().await;
    let there = tempfile::tempdir().unwrap();
    let place = there.path().join("copy");
    create(&lake, "t").await;
    for n in 1..5 {
        append(&lake, "t", n).await;
    }
    backup(&lake, &place).await;
    lake.drop_table(&id("t")).await.unwrap();
    create(&lake, "t").await;
    append(&lake, "t", 7).await;
    let done = backup(&lake, &place).await;
    assert_eq!(done.counts.versions_copied, 2);
    let copy = Lake::open(options(&place)).await.unwrap();
    assert_eq!(rows(&copy, "t").await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing() {
    let (lake, _folder) = lake().await;
    let there = tempfile::tempdir().unwrap();
    let place = there.path().join("copy");
    create(&lake, "t").await;
    let mut spec = BackupSpec::to(place.to_str().unwrap());
    spec.is_dry_run = true;
    let done = lake.backup(&spec, &BackupProgress::default()).await.unwrap();
    assert_eq!((done.counts.versions_copied, done.counts.tables), (1, 1));
    assert!(!place.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_cut_off_is_no_lake() {
    let (lake, _folder) = lake().await;
    let there = tempfile::tempdir().unwrap();
    create(&lake, "t").await;
    backup(&lake, there.path()).await;
    let record = super::RunningRecord::new(lake.lake_id(), "backup", "/somewhere", 0);
    let system = super::SystemStore::new(
        Arc::new(object_store::local::LocalFileSystem::new_with_prefix(there.path()).unwrap()),
        object_store::path::Path::from("_lakebed"),
        None,
    );
    super::record::write(&system, super::record::RUNNING_RECORD, &record).await.unwrap();
    let error = Lake::open(options(there.path())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("cut off"), "{error}");
    backup(&lake, there.path()).await;
    Lake::open(options(there.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_comes_back_under_a_free_name_only() {
    let (lake, _folder) = lake().await;
    let there = tempfile::tempdir().unwrap();
    create(&lake, "t").await;
    append(&lake, "t", 1).await;
    backup(&lake, there.path()).await;
    let from = options(there.path());
    let progress = BackupProgress::default();
    let same = [RestoreTable { table: id("t"), to: id("t") }];
    let error = restore_tables(&from, &lake, &same, false, &progress).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let other = [RestoreTable { table: id("t"), to: id("ns$back") }];
    restore_tables(&from, &lake, &other, false, &progress).await.unwrap();
    assert_eq!(rows(&lake, "ns$back").await, [1, 2]);
    let (one, two) = (id("t"), id("ns$back"));
    let uids = [lake.table(&one).await.unwrap(), lake.table(&two).await.unwrap()];
    assert_ne!(uids[0].uid(), uids[1].uid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_into_an_empty_place() {
    let (lake, _folder) = lake().await;
    let there = tempfile::tempdir().unwrap();
    let back = tempfile::tempdir().unwrap();
    create(&lake, "t").await;
    backup(&lake, there.path()).await;
    let (from, to) = (options(there.path()), options(back.path()));
    let progress = BackupProgress::default();
    let wrong = restore(&to, &from, false, &progress).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::NotFound);
    restore(&from, &to, false, &progress).await.unwrap();
    let again = restore(&from, &to, false, &progress).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let copy = Lake::open(to.clone()).await.unwrap();
    assert_eq!(copy.lake_id(), lake.lake_id());
    assert_eq!(rows(&copy, "t").await, [1]);
}
