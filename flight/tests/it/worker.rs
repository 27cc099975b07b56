//! The worker protocol over gRPC, as a worker in another language speaks it.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{FlightData, FlightDescriptor, Ticket};
use futures::TryStreamExt;
use lakebed_core::{DatabaseName, Freshness, Limits, Principal, RequestContext, TableId};
use lakebed_proto::worker::v1::{AttemptId, Input, Model, SyncRequest, TaskDone};
use lakebed_service::{JobState, SubmitJob};
use tonic::{Code, Status};

use crate::support::{Client, Harness, get, marker};

const MODEL: &str = "all-MiniLM-L6-v2";
const DIMENSIONS: i32 = 384;

fn report() -> SyncRequest {
    SyncRequest {
        worker: "w".to_owned(),
        instance: "i".to_owned(),
        slots: 1,
        wait_ms: 5_000,
        models: vec![Model {
            name: MODEL.to_owned(),
            digest: "sha256:test".to_owned(),
            dimensions: DIMENSIONS as u32,
            input: Input::Text.into(),
        }],
        ..SyncRequest::default()
    }
}

fn context() -> RequestContext {
    RequestContext {
        principal: Principal::anonymous(),
        request_id: "r".to_owned(),
        database: DatabaseName::default_database(),
        freshness: Freshness::default(),
    }
}

/// The same vector for every row.
fn results(ids: &UInt64Array) -> RecordBatch {
    let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), DIMENSIONS);
    for _ in 0..ids.len() {
        vectors.values().append_slice(&[0.5; DIMENSIONS as usize]);
        vectors.append(true);
    }
    let errors = StringArray::new_null(ids.len());
    RecordBatch::try_from_iter([
        ("_rowid", Arc::new(ids.clone()) as ArrayRef),
        ("value", Arc::new(vectors.finish()) as ArrayRef),
        ("error", Arc::new(errors) as ArrayRef),
    ])
    .unwrap()
}

async fn put(client: &mut Client, messages: Vec<FlightData>) -> Result<String, Status> {
    let mut answers = client.do_put(futures::stream::iter(messages)).await?.into_inner();
    let answer = answers.message().await?.ok_or_else(|| Status::internal("no answer"))?;
    Ok(String::from_utf8_lossy(&answer.app_metadata).into_owned())
}

fn named(kind: &str, attempt: &AttemptId) -> String {
    let AttemptId { job_id, task, attempt } = attempt;
    format!(r#"{{"{kind}":{{"job":"{job_id}","task":{task},"attempt":{attempt}}}}}"#)
}

#[tokio::test]
async fn a_job_is_done_over_grpc() {
    let harness = Harness::start().await;
    harness.seeded("t").await;
    let table = TableId::parse(&DatabaseName::default_database(), "t").unwrap();
    let command = SubmitJob {
        input: "text".to_owned(),
        output: "vector".to_owned(),
        model: MODEL.to_owned(),
        ..SubmitJob::default()
    };
    let job = harness.service.submit_job(&context(), &table, command).await.unwrap();

    let mut worker = harness.worker_client().await;
    let answer = worker.sync(report()).await.unwrap().into_inner();
    let attempt = answer.assign[0].attempt.clone().unwrap();
    assert_eq!(attempt.job_id, job.job_id);
    assert!(answer.lease_ms > answer.sync_ms);

    let mut client = harness.client().await;
    let ticket = Ticket::new(named("task", &attempt));
    let rows = get(&mut client, ticket).await.unwrap();
    let ids = rows[0].column(0).as_primitive::<UInt64Type>().clone();
    assert_eq!(ids.len(), 3);
    assert_eq!(rows[0].column(1).as_string::<i32>().value(1), "row 1");

    let batch = results(&ids);
    let descriptor = FlightDescriptor::new_cmd(named("result", &attempt));
    let mut messages: Vec<_> = FlightDataEncoderBuilder::new()
        .with_schema(batch.schema())
        .with_flight_descriptor(Some(descriptor))
        .build(futures::stream::iter([Ok(batch)]))
        .try_collect()
        .await
        .unwrap();
    // Without the marker nothing is kept.
    let refused = put(&mut client, messages.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    messages.push(marker(3));
    assert_eq!(put(&mut client, messages).await.unwrap(), r#"{"rows":3}"#);

    let done = TaskDone { attempt: Some(attempt.clone()), ..TaskDone::default() };
    let ended = SyncRequest { done: vec![done], wait_ms: 0, ..report() };
    for _ in 0..200 {
        worker.sync(ended.clone()).await.unwrap();
        let found = harness.service.describe_job(&context(), &job.job_id).await.unwrap();
        if found.state == JobState::Done {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the job did not end");
}

#[tokio::test]
async fn a_report_needs_a_key_and_sense() {
    let harness = Harness::with(Limits::default(), false).await;
    let refused = harness.worker_client().await.sync(report()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let harness = Harness::start().await;
    let mut worker = harness.worker_client().await;
    let nameless = SyncRequest { instance: String::new(), ..report() };
    assert_eq!(worker.sync(nameless).await.unwrap_err().code(), Code::InvalidArgument);
    let mut odd = report();
    odd.models[0].dimensions = 0;
    assert_eq!(worker.sync(odd).await.unwrap_err().code(), Code::InvalidArgument);
}
