use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use lakebed_core::{DatabaseName, Principal, RequestContext};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

fn batch(rows: usize) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    RecordBatch::try_from_iter([("n", values)]).unwrap()
}

fn call() -> Call {
    let ctx = RequestContext {
        principal: Principal::anonymous(),
        request_id: "r-1".to_owned(),
        database: DatabaseName::default_database(),
        freshness: lakebed_core::Freshness::default(),
    };
    Call { ctx, deadline: None, namespace: None, column_types: Default::default() }
}

/// A stream that says when it is dropped, by closing the channel.
fn watched<S: Stream>(stream: S) -> (impl Stream<Item = S::Item>, oneshot::Receiver<()>) {
    let (guard, dropped) = oneshot::channel::<()>();
    let stream = stream.inspect(move |_| {
        let _ = &guard;
    });
    (stream, dropped)
}

fn start(
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    stall: Duration,
    deadline: Option<Deadline>,
) -> GetBody {
    let (queue, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let producer = Producer { queue, stall, deadline };
    tokio::spawn(producer.run(batch(0).schema(), Box::pin(batches)));
    GetBody { queue: receiver, call: call(), frames: VecDeque::new(), is_done: false }
}

const NEVER: Duration = Duration::from_secs(3_600);

/// Reads a body as a client does: the rows that came, and the status in the trailers.
async fn read(mut body: GetBody) -> (Vec<usize>, String) {
    let mut bytes = Vec::new();
    let mut code = None;
    while let Some(frame) = futures::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        assert!(code.is_none(), "something follows the trailers");
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap();
                let value = trailers.get(Status::GRPC_STATUS).unwrap();
                code = Some(value.to_str().unwrap().to_owned());
            }
        }
    }
    let mut messages = Vec::new();
    let mut rest = &bytes[..];
    while let Some((prefix, after)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        messages.push(Ok::<_, FlightError>(FlightData::decode(&after[..length]).unwrap()));
        rest = &after[length..];
    }
    let mut decoder = FlightDataDecoder::new(futures::stream::iter(messages));
    let mut rows = Vec::new();
    while let Some(message) = decoder.next().await {
        if let DecodedPayload::RecordBatch(batch) = message.unwrap().payload {
            rows.push(batch.num_rows());
        }
    }
    (rows, code.unwrap())
}

#[tokio::test]
async fn rows_come_and_then_ok() {
    let batches = vec![Ok(batch(200_000)), Ok(batch(900_000)), Ok(batch(3))];
    let (rows, code) = read(start(futures::stream::iter(batches), NEVER, None)).await;
    assert_eq!((rows.iter().sum::<usize>(), code.as_str()), (1_100_003, "0"));
    assert!(rows.len() > 3, "a batch of 7 MB came as one message");
    let (rows, code) = read(start(futures::stream::empty(), NEVER, None)).await;
    assert_eq!((rows.len(), code.as_str()), (0, "0"));
}

#[tokio::test]
async fn a_late_error_ends_the_answer_with_its_status() {
    let batches = vec![Ok(batch(200_000)), Err(Error::new(ErrorKind::Corrupt, "page 3"))];
    let (rows, code) = read(start(futures::stream::iter(batches), NEVER, None)).await;
    assert_eq!((rows, code), (vec![200_000], (Code::DataLoss as i32).to_string()));
}

#[tokio::test]
async fn a_panic_behind_the_answer_is_internal() {
    let batches = futures::stream::once(async { Ok(batch(200_000)) })
        .chain(futures::stream::once(async { panic!("on purpose") }));
    let (_, code) = read(start(batches, NEVER, None)).await;
    assert_eq!(code, (Code::Internal as i32).to_string());
}

#[tokio::test]
async fn a_client_that_went_away_ends_the_read() {
    // A read that waits for its disk when the client leaves.
    let batches = futures::stream::iter([Ok(batch(200_000))]).chain(futures::stream::pending());
    let (batches, dropped) = watched(batches);
    let mut body = start(batches, NEVER, None);
    let frame = futures::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert!(frame.unwrap().unwrap().is_data());
    drop(body);
    dropped.await.unwrap_err();
}

#[tokio::test]
async fn a_slow_client_slows_the_read_and_a_stalled_one_ends_it() {
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let (batches, dropped) = watched(futures::stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(batch(200_000))
    }));
    let body = start(batches, Duration::from_millis(50), None);
    dropped.await.unwrap_err();
    assert!(made.load(Ordering::SeqCst) <= QUEUE_MESSAGES_MAX + 2);
    let (_, code) = read(body).await;
    assert_eq!(code, (Code::DeadlineExceeded as i32).to_string());
}

#[tokio::test]
async fn a_deadline_ends_the_answer() {
    let batches = futures::stream::iter([Ok(batch(200_000))]).chain(futures::stream::pending());
    let deadline = Some(Deadline(Instant::now() + Duration::from_millis(20)));
    let (rows, code) = read(start(batches, NEVER, deadline)).await;
    assert_eq!((rows, code), (vec![200_000], (Code::DeadlineExceeded as i32).to_string()));
}
