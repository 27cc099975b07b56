//! Puts that are as they should be.

use arrow_flight::FlightDescriptor;
use tonic::Code;

use crate::support::{Harness, State, batch, ids, info, marker, messages, put, read, send};

#[tokio::test]
async fn rows_come_back_in_their_order() {
    let server = Harness::start().await;
    let mut client = server.client().await;
    let create = r#"{"write":{"table":"ns$t","mode":"create","write_id":"w-1"}}"#;
    let receipt = put(&mut client, create, &[batch(0..3), batch(3..5)]).await.unwrap();
    assert_eq!((receipt.rows, receipt.write_id.as_deref()), (5, Some("w-1")));
    assert!(receipt.bytes > 0);

    let append = r#"{"write":{"table":"ns$t","mode":"append"}}"#;
    let second = put(&mut client, append, &[batch(5..9)]).await.unwrap();
    assert!(second.version > receipt.version);

    let all = read(&mut client, r#"{"read":{"table":"ns$t"}}"#).await.unwrap();
    assert_eq!(ids(&all), (0..9).collect::<Vec<_>>());
    let command = format!(r#"{{"read":{{"table":"ns$t","version":{}}}}}"#, receipt.version);
    assert_eq!(ids(&read(&mut client, &command).await.unwrap()), [0, 1, 2, 3, 4]);
    let plan = info(&mut client, r#"{"read":{"table":"ns$t"}}"#).await.unwrap();
    assert_eq!((plan.total_records, plan.ordered), (9, true));
    let metadata: serde_json::Value = serde_json::from_slice(&plan.app_metadata).unwrap();
    assert_eq!(metadata["version"], second.version);
}

#[tokio::test]
async fn a_path_appends() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut all = messages("", &[batch(3..5)]).await;
    all[0].flight_descriptor = Some(FlightDescriptor::new_path(vec!["t".to_owned()]));
    let receipt = send(&mut server.client().await, all).await.unwrap();
    assert_eq!((receipt.version, receipt.rows), (before.version + 1, 2));
}

#[tokio::test]
async fn a_schema_alone_makes_an_empty_table() {
    let server = Harness::start().await;
    let mut client = server.client().await;
    let create = r#"{"write":{"table":"t","mode":"create"}}"#;
    assert_eq!(put(&mut client, create, &[]).await.unwrap().rows, 0);
    assert_eq!(server.state("t").await.unwrap().rows, 0);
    assert!(ids(&read(&mut client, r#"{"read":{"table":"t"}}"#).await.unwrap()).is_empty());
}

#[tokio::test]
async fn an_explicit_commit_with_its_marker_commits() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let command = r#"{"write":{"table":"t","mode":"append","commit":"explicit"}}"#;
    let mut all = messages(command, &[batch(3..5), batch(5..6)]).await;
    all.push(marker(3));
    let receipt = send(&mut server.client().await, all).await.unwrap();
    assert_eq!((receipt.version, receipt.rows), (before.version + 1, 3));
}

#[tokio::test]
async fn a_write_id_sent_again_gets_its_first_receipt() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let command = r#"{"write":{"table":"t","mode":"append","write_id":"w","commit":"explicit"}}"#;
    let mut all = messages(command, &[batch(3..5)]).await;
    all.push(marker(2));
    let first = send(&mut client, all.clone()).await.unwrap();
    let after = server.state("t").await;
    // A long stream, so that the receipt is there before its end.
    let many: Vec<_> = (0..40).map(|n| batch(n * 9_000..(n + 1) * 9_000)).collect();
    let mut again = messages(command, &many).await;
    again.push(marker(360_000));
    assert_eq!(send(&mut client, again).await.unwrap(), first);
    assert_eq!(send(&mut client, all).await.unwrap(), first);
    assert_eq!(server.state("t").await, after);
}

#[tokio::test]
async fn large_batches_go_through() {
    let server = Harness::start().await;
    let mut client = server.client().await;
    let create = r#"{"write":{"table":"t","mode":"create"}}"#;
    let batches: Vec<_> = (0..4).map(|n| batch(n * 500_000..(n + 1) * 500_000)).collect();
    assert_eq!(put(&mut client, create, &batches).await.unwrap().rows, 2_000_000);
    let back = read(&mut client, r#"{"read":{"table":"t"}}"#).await.unwrap();
    assert!(ids(&back).into_iter().eq(0..2_000_000));
    assert!(back.iter().all(|batch| batch.num_rows() < 500_000), "one message for each batch");
}

#[tokio::test]
async fn what_a_write_may_not_do_is_told_by_kind() {
    let server = Harness::start().await;
    let before = server.seeded("t").await;
    let mut client = server.client().await;
    for (command, code, words) in [
        (r#"{"write":{"table":"missing","mode":"append"}}"#, Code::NotFound, "missing"),
        (r#"{"write":{"table":"t","mode":"create"}}"#, Code::AlreadyExists, "t"),
        (r#"{"write":{"table":"t","mode":"replace"}}"#, Code::InvalidArgument, "write.mode"),
        (r#"{"write":{"table":"../t","mode":"create"}}"#, Code::InvalidArgument, "../t"),
        (r#"{"read":{"table":"t"}}"#, Code::InvalidArgument, "is a read"),
        ("insert into t", Code::InvalidArgument, "neither"),
    ] {
        let status = put(&mut client, command, &[batch(3..5)]).await.unwrap_err();
        assert_eq!(status.code(), code, "{command}: {status}");
        assert!(status.message().contains(words), "{status}");
        assert!(status.metadata().get("x-request-id").is_some(), "{status}");
    }
    assert_eq!(server.state("t").await, Some(State { ..before }));
    server.assert_untouched("t", before).await;
}
