//! Servers that come, go silent and come back: one leads, and what an earlier one still does is refused.

use std::sync::OnceLock;

use lakebed_core::{ErrorKind, TagName};
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::catalog::Entry;
use crate::lake::Shared;
use crate::pins::{Doomed, PinnedVersion, Pins};
use crate::table::Table;
use crate::{At, test_lake};

const TTL: Duration = Duration::from_millis(200);

fn store() -> SystemStore {
    SystemStore::new(Arc::new(InMemory::new()), Path::from("_lakebed"), None)
}

async fn server(store: &SystemStore, port: u16) -> Arc<Servers> {
    let http = format!("http://127.0.0.1:{port}");
    let flight = format!("http://127.0.0.1:{}", port + 1);
    let pins = Pins::default();
    let clock = Arc::new(lakebed_core::SystemClock);
    Arc::new(Servers::join(store.clone(), http, flight, TTL, pins, clock).await.unwrap())
}

fn here(leader: &Leader) -> Option<u64> {
    match leader {
        Leader::Here { term } => Some(*term),
        Leader::There(_) => None,
    }
}

/// Lets a server go silent: the others go on beating until it counts as gone.
async fn outlive(others: &[&Arc<Servers>]) {
    for _ in 0..8 {
        tokio::time::sleep(TTL / 5).await;
        for other in others {
            other.beat().await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_leads_until_it_is_gone() {
    let store = store();
    let (a, b) = (server(&store, 1_000).await, server(&store, 2_000).await);
    assert_eq!(here(&a.lead("t").await.unwrap()), Some(1));
    assert_eq!(b.lead("t").await.unwrap(), Leader::There(a.me().clone()));
    assert_eq!(here(&b.lead("other").await.unwrap()), Some(1));
    for _ in 0..8 {
        tokio::time::sleep(TTL / 5).await;
        a.beat().await.unwrap();
        b.beat().await.unwrap();
    }
    assert_eq!(b.lead("t").await.unwrap(), Leader::There(a.me().clone()), "its beats are seen");
    outlive(&[&b]).await;
    assert!(b.others().is_empty());
    assert_eq!(here(&b.lead("t").await.unwrap()), Some(2));
    // The one that was paused believes in its lease until its next beat says how long it was.
    assert_eq!(here(&a.lead("t").await.unwrap()), Some(1));
    assert!(!a.still_leads("t", 1).await.unwrap());
    a.beat().await.unwrap();
    assert_eq!(a.lead("t").await.unwrap(), Leader::There(b.me().clone()));
}

#[tokio::test]
async fn who_leaves_or_is_started_again_is_not_waited_for() {
    let store = store();
    let (a, b) = (server(&store, 1_000).await, server(&store, 2_000).await);
    assert_eq!(here(&a.lead("t").await.unwrap()), Some(1));
    a.leave().await.unwrap();
    b.beat().await.unwrap();
    assert_eq!(here(&b.lead("t").await.unwrap()), Some(2));
    let again = server(&store, 2_000).await;
    assert_eq!(here(&again.lead("t").await.unwrap()), Some(3));
}

#[tokio::test]
async fn a_lease_can_be_given() {
    let store = store();
    let (a, b) = (server(&store, 1_000).await, server(&store, 2_000).await);
    assert_eq!(here(&a.lead("t").await.unwrap()), Some(1));
    assert_eq!(b.give("t", &a.me().id).await.unwrap_err().kind(), ErrorKind::Conflict);
    a.give("t", &b.me().id).await.unwrap();
    assert_eq!(here(&b.lead("t").await.unwrap()), Some(2));
    a.beat().await.unwrap();
    assert_eq!(a.lead("t").await.unwrap(), Leader::There(b.me().clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_one_takes_the_lease() {
    let store = store();
    let mut servers = Vec::new();
    for number in 0..8 {
        servers.push(server(&store, 1_000 + 10 * number).await);
    }
    for round in 0..20 {
        let subject = format!("t{round}");
        let asked = servers.iter().map(|server| server.lead(&subject));
        let leaders = futures::future::join_all(asked).await;
        let leading: Vec<u64> =
            leaders.iter().filter_map(|leader| here(leader.as_ref().unwrap())).collect();
        assert_eq!(leading, [1], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_reads_is_not_deleted() {
    let store = store();
    let (a, b) = (server(&store, 1_000).await, server(&store, 2_000).await);
    a.beat().await.unwrap();
    let version = |version| PinnedVersion { location: "t".to_owned(), branch: None, version };
    let reader = b.pins.pin(version(5)).unwrap();
    b.pins.lease(version(6), i64::MAX);
    let note =
        DoomNote { location: "t".to_owned(), branch: None, versions: Some(vec![4, 5, 6, 7]) };
    let beating = tokio::spawn({
        let b = Arc::clone(&b);
        async move {
            loop {
                b.beat().await.unwrap();
                tokio::time::sleep(TTL / 8).await;
            }
        }
    });
    let agreed = a.agree(note.clone()).await.unwrap();
    let mut held = agreed.held_versions();
    held.sort_unstable();
    assert_eq!(held, [5, 6]);
    assert_eq!(b.pins.pin(version(7)).unwrap_err(), Doomed::Version, "nobody begins to read it");
    assert!(b.pins.pin(version(8)).is_ok());
    let other_table = PinnedVersion { location: "u".to_owned(), ..version(7) };
    assert!(b.pins.pin(other_table).is_ok());
    drop(agreed);
    a.beat().await.unwrap();
    tokio::time::sleep(TTL / 2).await;
    assert!(b.pins.pin(version(7)).is_ok(), "it was not deleted and is no longer about to be");

    let whole = DoomNote { versions: None, ..note.clone() };
    assert!(!a.agree(whole.clone()).await.unwrap().held.is_empty());
    drop(reader);
    let keeping = b.pins.keep_all().await;
    assert!(
        !a.agree(DoomNote { location: "u".to_owned(), ..whole }).await.unwrap().held.is_empty()
    );
    drop(keeping);
    // One that is gone is not waited for.
    beating.abort();
    tokio::time::sleep(TTL * 2).await;
    assert!(a.agree(note).await.unwrap().held.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_joins_knows_what_goes() {
    let store = store();
    let a = server(&store, 1_000).await;
    let note = DoomNote { location: "t".to_owned(), branch: None, versions: Some(vec![3]) };
    let agreed = a.agree(note).await.unwrap();
    let b = server(&store, 2_000).await;
    let version = PinnedVersion { location: "t".to_owned(), branch: None, version: 3 };
    assert_eq!(b.pins.pin(version).unwrap_err(), Doomed::Version);
    drop(agreed);
}

/// A handle of the lake's table `t`, as another process has it.
async fn other_process(lake: &crate::Lake, servers: &Arc<Servers>) -> Arc<Table> {
    let entry: Entry = lake.catalog.get(&test_lake::id("t")).await.unwrap().unwrap();
    let root =
        crate::root::Root::open(lake.shared.root.uri(), &HashMap::new(), 1 << 20, 1 << 20).unwrap();
    let shared = Shared {
        root,
        limits: lake.shared.limits.clone(),
        clock: Arc::clone(&lake.shared.clock),
        pins: Pins::default(),
        blob_claims: Arc::default(),
        system: lake.shared.system.clone(),
        updating: tokio::sync::Semaphore::new(1),
        read_sets: Default::default(),
        servers: OnceLock::from(Arc::clone(servers)),
    };
    Arc::new(Table::new(Arc::new(shared), entry))
}

async fn append(table: &Arc<Table>, n: i64) -> Result<u64> {
    let (schema, batches, options) = test_lake::row(n);
    table.append(None, schema, batches, options).await.map(|receipt| receipt.version)
}

async fn rows(table: &Arc<Table>) -> usize {
    table.snapshot(None, &At::Latest).await.unwrap().count_rows().await.unwrap() as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_earlier_term_is_committed() {
    let (lake, _folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let store = store();
    let (a, b) = (server(&store, 1_000).await, server(&store, 2_000).await);
    let paused = other_process(&lake, &a).await;
    let second = other_process(&lake, &b).await;
    let version = append(&paused, 1).await.unwrap();
    let refused = append(&second, 2).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");

    outlive(&[&b]).await;
    // The new term's own version, and the row.
    assert_eq!(append(&second, 2).await.unwrap(), version + 2);

    // The one that was paused still believes that it leads.
    let lost = |error: lakebed_core::Error, what: &str| {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        assert!(error.message().contains("leads the table"), "{what}: {error}");
    };
    lost(append(&paused, 3).await.unwrap_err(), "append");
    lost(paused.delete_rows(None, "n >= 0").await.unwrap_err(), "delete");
    lost(paused.restore(None, 1).await.unwrap_err(), "restore");
    let (schema, batches, options) = test_lake::row(9);
    lost(paused.overwrite(None, schema, batches, options).await.unwrap_err(), "overwrite");
    let more = arrow_schema::Field::new("m", arrow_schema::DataType::Int64, true);
    let more = Arc::new(arrow_schema::Schema::new(vec![more]));
    lost(paused.add_null_columns(None, more).await.unwrap_err(), "add columns");
    let tag = TagName::parse("gold").unwrap();
    lost(paused.create_tag(&tag, None, 1).await.unwrap_err(), "tag");
    let rule = crate::CleanRule { expired: vec![1], ..Default::default() };
    lost(paused.clean(None, rule).await.unwrap_err(), "clean");

    assert_eq!(rows(&second).await, 3);
    assert_eq!(append(&second, 4).await.unwrap(), version + 3, "nothing came in between");
    second.snapshot(None, &At::Latest).await.unwrap().validate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_just_before_the_fence_is_seen() {
    let (lake, _folder) = test_lake::lake().await;
    test_lake::create(&lake, "t").await;
    let store = store();
    let (a, b) = (server(&store, 1_000).await, server(&store, 2_000).await);
    let first = other_process(&lake, &a).await;
    let second = other_process(&lake, &b).await;
    assert_eq!(rows(&second).await, 1, "it has seen the table as it was");
    let written = |n: i64| {
        let (schema, batches, options) = test_lake::row(n);
        (schema, batches, crate::WriteOptions { write_id: Some(format!("w{n}")), ..options })
    };
    let (schema, batches, options) = written(1);
    let receipt = first.append(None, schema, batches, options).await.unwrap();
    outlive(&[&b]).await;
    // The same write, sent again to the server that took over.
    let (schema, batches, options) = written(1);
    let again = second.append(None, schema, batches, options).await.unwrap();
    assert!(again.is_repeat && again.version == receipt.version);
    assert_eq!(rows(&second).await, 2);
}
