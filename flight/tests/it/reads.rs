//! Reads, plans and the small methods.

use std::collections::BTreeSet;

use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria, Empty,
    FlightDescriptor, Ticket,
};
use arrow_schema::Schema;
use futures::TryStreamExt;
use prost::Message;
use tonic::{Code, Request};

use crate::support::{Harness, batch, get, ids, info, put};

fn json_ticket(text: &str) -> Ticket {
    Ticket::new(text.to_owned())
}

#[tokio::test]
async fn a_ticket_may_be_json() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let all = get(&mut client, json_ticket(r#"{"read":{"table":"t"}}"#)).await.unwrap();
    assert_eq!(ids(&all), [0, 1, 2]);
    let some = r#"{"read":{"table":"t","columns":["id"],"filter":"id > 0","limit":1}}"#;
    let some = get(&mut client, json_ticket(some)).await.unwrap();
    assert_eq!((ids(&some), some[0].num_columns()), (vec![1], 1));
}

#[tokio::test]
async fn a_ticket_reads_the_version_it_was_made_for() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let plan = info(&mut client, r#"{"read":{"table":"t"}}"#).await.unwrap();
    let append = r#"{"write":{"table":"t","mode":"append"}}"#;
    put(&mut client, append, &[batch(3..9)]).await.unwrap();
    let ticket = plan.endpoint[0].ticket.clone().unwrap();
    for _ in 0..2 {
        assert_eq!(ids(&get(&mut client, ticket.clone()).await.unwrap()), [0, 1, 2]);
    }
    assert!(plan.endpoint[0].expiration_time.is_some());
    assert!(plan.endpoint[0].location.is_empty());
}

#[tokio::test]
async fn bad_tickets_are_refused_by_kind() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let plan = info(&mut client, r#"{"read":{"table":"t"}}"#).await.unwrap();
    let mut damaged = plan.endpoint[0].ticket.clone().unwrap().ticket.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (ticket, code, words) in [
        (Ticket::new(damaged), Code::InvalidArgument, "damaged"),
        (json_ticket("of another server"), Code::InvalidArgument, "not made by this server"),
        (json_ticket(""), Code::InvalidArgument, "not made by this server"),
        (json_ticket(r#"{"read":{"table":"tt"}}"#), Code::NotFound, "tt"),
        (json_ticket(r#"{"read":{"table":"t","filtre":"x"}}"#), Code::InvalidArgument, "filtre"),
        (json_ticket(r#"{"search":{"table":"tt"}}"#), Code::NotFound, "tt"),
        (json_ticket(r#"{"search":{"tabel":"t"}}"#), Code::InvalidArgument, "tabel"),
    ] {
        let status = get(&mut client, ticket).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
        assert!(status.metadata().get("x-request-id").is_some());
        assert!(status.metadata().get("x-lakebed-error-kind").is_some());
    }
}

#[tokio::test]
async fn schema_poll_and_list_agree_with_the_plan() {
    let server = Harness::start().await;
    server.seeded("t").await;
    server.seeded("ns$deep$u").await;
    let mut client = server.client().await;
    let descriptor = FlightDescriptor::new_path(vec!["t".to_owned()]);
    let plan = client.get_flight_info(descriptor.clone()).await.unwrap().into_inner();
    let schema = client.get_schema(descriptor.clone()).await.unwrap().into_inner();
    let schema = Schema::try_from(&schema).unwrap();
    assert_eq!(schema, Schema::try_from(plan.clone()).unwrap());
    assert_eq!(schema.fields().len(), 2);

    let poll = client.poll_flight_info(descriptor).await.unwrap().into_inner();
    assert_eq!((poll.progress, poll.flight_descriptor), (Some(1.0), None));
    assert_eq!(poll.info.unwrap().total_records, plan.total_records);

    let mut listed = async |prefix: &'static str| -> Vec<_> {
        let criteria = Criteria { expression: prefix.into() };
        client.list_flights(criteria).await.unwrap().into_inner().try_collect().await.unwrap()
    };
    let paths = |flights: &[arrow_flight::FlightInfo]| -> BTreeSet<Vec<String>> {
        flights.iter().map(|f| f.flight_descriptor.clone().unwrap().path).collect()
    };
    let all = listed("").await;
    let t = vec!["t".to_owned()];
    let u = vec!["ns".to_owned(), "deep".to_owned(), "u".to_owned()];
    assert_eq!(paths(&all), BTreeSet::from([t, u.clone()]));
    assert!(all.iter().all(|flight| flight.total_records == 3));
    assert_eq!(paths(&listed("ns$").await), BTreeSet::from([u]));
    assert!(listed("x").await.is_empty());
    let ticket = all[0].endpoint[0].ticket.clone().unwrap();
    assert_eq!(ids(&get(&mut client, ticket).await.unwrap()), [0, 1, 2]);
}

#[tokio::test]
async fn actions_are_listed_and_answered() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let actions: Vec<_> =
        client.list_actions(Empty {}).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!(actions[0].r#type, "CancelFlightInfo");
    let plan = info(&mut client, r#"{"read":{"table":"t"}}"#).await.unwrap();
    let body = CancelFlightInfoRequest { info: Some(plan) }.encode_to_vec();
    let action = Action { r#type: "CancelFlightInfo".to_owned(), body: body.into() };
    let result = client.do_action(action).await.unwrap().into_inner().message().await.unwrap();
    let result = CancelFlightInfoResult::decode(result.unwrap().body).unwrap();
    assert_eq!(result.status(), CancelStatus::NotCancellable);
    let unknown = Action { r#type: "Reboot".to_owned(), body: "".into() };
    let status = client.do_action(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let exchange = client.do_exchange(futures::stream::empty()).await.unwrap_err();
    assert_eq!(exchange.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_client_that_stops_reading_leaves_the_server_serving() {
    let server = Harness::start().await;
    let mut client = server.client().await;
    let create = r#"{"write":{"table":"t","mode":"create"}}"#;
    let batches: Vec<_> = (0..4).map(|n| batch(n * 500_000..(n + 1) * 500_000)).collect();
    put(&mut client, create, &batches).await.unwrap();
    let ticket = json_ticket(r#"{"read":{"table":"t"}}"#);
    for _ in 0..20 {
        let mut stream = client.do_get(ticket.clone()).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        drop(stream);
    }
    let before = server.state("t").await.unwrap();
    // Shutdown waits for reads as well: one that goes on without its client would hold it up.
    server.assert_untouched("t", before).await;
}

#[tokio::test]
async fn a_database_is_chosen_by_header() {
    let server = Harness::start().await;
    server.seeded("t").await;
    let mut client = server.client().await;
    let mut request = Request::new(json_ticket(r#"{"read":{"table":"t"}}"#));
    request.metadata_mut().insert("database", "other".parse().unwrap());
    let status = client.do_get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let mut request = Request::new(json_ticket(r#"{"read":{"table":"t"}}"#));
    request.metadata_mut().insert("x-lancedb-database", "a//b".parse().unwrap());
    assert_eq!(client.do_get(request).await.unwrap_err().code(), Code::InvalidArgument);
}
