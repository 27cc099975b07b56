use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Poll;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::FlightDescriptor;
use arrow_schema::SchemaRef;
use http_body::Body;
use lakebed_core::{DatabaseName, Principal, RequestContext};
use metrics::Counter;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::body_watch::WatchedBody;
use crate::encode::Encoder;

const EXPLICIT: &str = r#"{"write":{"table":"t","mode":"append","commit":"explicit"}}"#;
const ON_END: &str = r#"{"write":{"table":"t","mode":"append"}}"#;

/// What the write saw: its batches' rows and how its stream ended.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    rows: u64,
    end: Option<Result<(), ErrorKind>>,
}

/// A body end that was reached in the given way.
fn body_end(clean: bool) -> BodyEnd {
    struct Over(bool);
    impl Body for Over {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            Poll::Ready(None)
        }
        fn is_end_stream(&self) -> bool {
            self.0
        }
    }
    let end = BodyEnd::default();
    let mut body = WatchedBody::new(Over(clean), end.clone(), Counter::noop());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = std::pin::Pin::new(&mut body).poll_frame(&mut cx);
    end
}

fn batch(rows: usize) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    RecordBatch::try_from_iter([("n", values)]).unwrap()
}

/// Descriptor and schema, then one message for each batch.
fn messages(command: &'static str, batches: &[usize]) -> Vec<Result<FlightData, Status>> {
    let (mut encoder, announced) = Encoder::new(batch(0).schema());
    let first = announced.into_flight_data().with_descriptor(FlightDescriptor::new_cmd(command));
    let rest = batches.iter().flat_map(|rows| encoder.encode(&batch(*rows)).unwrap());
    let rest: Vec<FlightData> = rest.map(|message| message.into_flight_data()).collect();
    [first].into_iter().chain(rest).map(Ok).collect()
}

fn marker(rows: u64) -> Result<FlightData, Status> {
    Ok(FlightData::new().with_app_metadata(format!(r#"{{"commit":true,"rows":{rows}}}"#)))
}

fn call(deadline: Option<Deadline>) -> Call {
    let ctx = RequestContext {
        principal: Principal::anonymous(),
        request_id: "r-1".to_owned(),
        database: DatabaseName::default_database(),
        freshness: lakebed_core::Freshness::default(),
    };
    Call { ctx, deadline, namespace: None, column_types: Default::default() }
}

struct Put<S> {
    messages: S,
    clean: bool,
    deadline: Option<Deadline>,
    limits: Limits,
    admit: fn(u64) -> std::future::Ready<Result<Share>>,
}

/// Admits whatever is asked for.
fn admit_all(_: u64) -> std::future::Ready<Result<Share>> {
    std::future::ready(Ok(Box::new(())))
}

impl<S> Put<S>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    fn of(messages: S) -> Self {
        let limits = Limits::default();
        Put { messages, clean: true, deadline: None, limits, admit: admit_all }
    }

    /// Runs the put into a write that reads its stream to the end, and says what it saw.
    async fn run(self) -> (Result<Receipt>, Seen) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let writer = Arc::clone(&seen);
        // Dropped with the write, whether that ran or not: some puts do not wait for their writes.
        let (running, over) = oneshot::channel::<()>();
        let write = move |_: SchemaRef, mut batches: BatchStream| async move {
            let _running = running;
            while let Some(item) = batches.next().await {
                match item {
                    Ok(batch) => writer.lock().unwrap().rows += batch.num_rows() as u64,
                    Err(error) => {
                        writer.lock().unwrap().end = Some(Err(error.kind()));
                        return Err(error);
                    }
                }
            }
            writer.lock().unwrap().end = Some(Ok(()));
            let rows = writer.lock().unwrap().rows;
            Ok(Receipt { version: 2, rows, bytes: 0, write_id: None })
        };
        let result = self.run_with(write).await;
        over.await.unwrap_err();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        (result, seen)
    }

    async fn run_with<W, F>(self, write: W) -> Result<Receipt>
    where
        W: FnOnce(SchemaRef, BatchStream) -> F,
        F: Future<Output = Result<Receipt>> + Send + 'static,
    {
        let mut messages = PutMessages {
            messages: self.messages,
            end: body_end(self.clean),
            deadline: self.deadline,
            stall: Duration::from_millis(self.limits.write_stall_ms_max),
            message_bytes_max: self.limits.message_bytes_max,
            count: 0,
        };
        let first = messages.next().await?;
        let first = first.ok_or_else(|| Error::invalid("DoPut has no first message"))?;
        let descriptor = first.flight_descriptor.as_ref();
        let none = || Error::invalid("the first message of DoPut has no descriptor");
        let database = call(self.deadline).ctx.database;
        let command = write_command(&database, descriptor.ok_or_else(none)?)?;
        run(command.commit, first, &mut messages, &self.limits, self.admit, write).await
    }
}

fn stream(
    messages: Vec<Result<FlightData, Status>>,
) -> impl Stream<Item = Result<FlightData, Status>> + Send + Unpin {
    futures::stream::iter(messages)
}

async fn refused(messages: Vec<Result<FlightData, Status>>, words: &str) -> Seen {
    let (result, seen) = Put::of(stream(messages)).run().await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.message().contains(words), "`{error}` does not say `{words}`");
    assert_ne!(seen.end, Some(Ok(())), "the write saw a plain end");
    seen
}

#[tokio::test]
async fn a_clean_stream_commits() {
    let (result, seen) = Put::of(stream(messages(ON_END, &[3, 0, 20_000]))).run().await;
    assert_eq!(result.unwrap().rows, 20_003);
    assert_eq!(seen, Seen { rows: 20_003, end: Some(Ok(())) });
}

#[tokio::test]
async fn a_schema_alone_is_a_write_of_no_rows() {
    let (result, seen) = Put::of(stream(messages(ON_END, &[]))).run().await;
    assert_eq!((result.unwrap().rows, seen.end), (0, Some(Ok(()))));
}

#[tokio::test]
async fn an_explicit_commit_needs_its_marker() {
    let with = |rows| [messages(EXPLICIT, &[3, 4]), vec![marker(rows)]].concat();
    let (result, seen) = Put::of(stream(with(7))).run().await;
    assert_eq!((result.unwrap().rows, seen.end), (7, Some(Ok(()))));
    let broken = Some(Err(ErrorKind::InvalidArgument));
    assert_eq!(refused(with(6), "message 4: the commit marker says 6").await.end, broken);
    assert_eq!(refused(messages(EXPLICIT, &[3, 4]), "without the commit marker").await.end, broken);
    let after = [with(7), messages(ON_END, &[1])[1..].to_vec()].concat();
    assert_eq!(refused(after, "follows the commit marker").await.end, broken);
}

#[tokio::test]
async fn a_marker_may_ride_on_the_last_batch() {
    let mut all = messages(EXPLICIT, &[3, 4]);
    let last = all.pop().unwrap().unwrap();
    all.push(Ok(last.with_app_metadata(r#"{"commit":true,"rows":7}"#)));
    assert_eq!(Put::of(stream(all)).run().await.0.unwrap().rows, 7);
}

#[tokio::test]
async fn an_unclean_end_is_a_cancellation() {
    for command in [ON_END, EXPLICIT] {
        let all = [messages(command, &[3]), vec![marker(3)]].concat();
        let put = Put { clean: false, ..Put::of(stream(all)) };
        let (result, seen) = put.run().await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(seen, Seen { rows: 3, end: Some(Err(ErrorKind::Cancelled)) });
    }
}

#[tokio::test]
async fn a_broken_stream_is_never_its_end() {
    let cases = [
        (Status::cancelled("h2"), true, ErrorKind::Cancelled),
        (Status::unknown("connection lost"), false, ErrorKind::Cancelled),
        (Status::internal("failed to decode"), true, ErrorKind::InvalidArgument),
        (Status::out_of_range("too large"), true, ErrorKind::InvalidArgument),
    ];
    for (status, clean, kind) in cases {
        let all = [messages(ON_END, &[3]), vec![Err(status)]].concat();
        let (result, seen) = Put { clean, ..Put::of(stream(all)) }.run().await;
        assert_eq!(result.unwrap_err().kind(), kind);
        assert_eq!(seen.end, Some(Err(kind)));
    }
}

#[tokio::test]
async fn first_messages_that_say_nothing_are_refused() {
    assert_eq!(refused(vec![], "no first message").await, Seen::default());
    let mut no_descriptor = messages(ON_END, &[3]);
    drop(no_descriptor.remove(0));
    refused(no_descriptor, "no descriptor").await;
    let bare = FlightData::new().with_descriptor(FlightDescriptor::new_cmd(ON_END));
    refused(vec![Ok(bare)], "no schema").await;
    let mut no_schema = messages(ON_END, &[3]);
    let batch = no_schema.remove(1).unwrap();
    refused(
        vec![Ok(batch.with_descriptor(FlightDescriptor::new_cmd(ON_END)))],
        "does not begin with a schema",
    )
    .await;
    refused(messages(r#"{"write":{"table":"t","mode":"replace"}}"#, &[]), "write.mode").await;
}

#[tokio::test]
async fn broken_messages_are_named_and_break_the_write() {
    let mut truncated = messages(ON_END, &[3, 4_000]);
    let last = truncated.pop().unwrap().unwrap();
    let body = last.data_body.slice(..100);
    truncated.push(Ok(last.with_data_body(body)));
    let seen = refused(truncated, "message 3: arrow buffer").await;
    assert_eq!(seen, Seen { rows: 3, end: Some(Err(ErrorKind::InvalidArgument)) });

    let bodiless = [messages(ON_END, &[]), vec![Ok(FlightData::new().with_data_body("x"))]];
    refused(bodiless.concat(), "message 2: a body comes without its header").await;
    let twice = [messages(ON_END, &[3]), messages(ON_END, &[])].concat();
    refused(twice, "message 3: arrow stream has a second schema").await;
}

#[tokio::test]
async fn limits_hold_for_each_message() {
    let limits = Limits { batch_rows_max: 100, ..Limits::default() };
    let put = Put { limits, ..Put::of(stream(messages(ON_END, &[100, 101]))) };
    let (result, seen) = put.run().await;
    let error = result.unwrap_err();
    assert!(error.message().contains("batch_rows_max"), "{error}");
    assert_eq!(seen, Seen { rows: 100, end: Some(Err(ErrorKind::InvalidArgument)) });
}

#[tokio::test]
async fn a_batch_is_admitted_by_its_bytes_before_it_is_decoded() {
    let admit = |bytes| {
        std::future::ready(match bytes {
            0..8_000 => Ok(Box::new(()) as Share),
            _ => Err(Error::new(ErrorKind::Busy, format!("no room for {bytes} bytes"))),
        })
    };
    let put = Put { admit, ..Put::of(stream(messages(ON_END, &[100, 1_000]))) };
    let (result, seen) = put.run().await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains("no room for 8"), "{error}");
    assert_eq!(seen, Seen { rows: 100, end: Some(Err(ErrorKind::Busy)) });
}

#[tokio::test]
async fn silence_and_deadlines_end_a_write() {
    let quiet = || {
        let messages: VecDeque<_> = messages(ON_END, &[3]).into();
        futures::stream::iter(messages).chain(futures::stream::pending())
    };
    let limits = Limits { write_stall_ms_max: 20, ..Limits::default() };
    let (result, seen) = Put { limits, ..Put::of(quiet()) }.run().await;
    assert!(result.unwrap_err().message().contains("write_stall_ms_max"));
    assert_eq!(seen, Seen { rows: 3, end: Some(Err(ErrorKind::DeadlineExceeded)) });

    let deadline = Some(Deadline(Instant::now() + Duration::from_millis(20)));
    let (result, seen) = Put { deadline, ..Put::of(quiet()) }.run().await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(seen.end, Some(Err(ErrorKind::DeadlineExceeded)));

    // A stream that ended cleanly, but too late.
    let deadline = Some(Deadline(Instant::now()));
    let (result, seen) = Put { deadline, ..Put::of(stream(messages(ON_END, &[3]))) }.run().await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_ne!(seen.end, Some(Ok(())));
}

#[tokio::test]
async fn a_dropped_handler_breaks_the_write() {
    let (ended, end) = oneshot::channel();
    let write = move |_: SchemaRef, mut batches: BatchStream| async move {
        let mut last = Ok(0);
        while let Some(item) = batches.next().await {
            last = item.map(|batch| batch.num_rows()).map_err(|error| error.kind());
            if last.is_err() {
                break;
            }
        }
        let _ = ended.send(last);
        Err(gone())
    };
    let quiet = futures::stream::iter(messages(ON_END, &[3])).chain(futures::stream::pending());
    let mut put = Box::pin(Put::of(quiet).run_with(write));
    assert!(futures::poll!(&mut put).is_pending());
    drop(put);
    assert_eq!(end.await.unwrap(), Err(ErrorKind::Cancelled));
}

#[tokio::test]
async fn a_write_whose_stream_ended_outlives_its_handler() {
    let (reached, at_commit) = oneshot::channel();
    let (proceed, may_proceed) = oneshot::channel::<()>();
    let (done, finished) = oneshot::channel();
    let write = move |_: SchemaRef, mut batches: BatchStream| async move {
        while let Some(item) = batches.next().await {
            item?;
        }
        let _ = reached.send(());
        let _ = may_proceed.await;
        let _ = done.send(());
        Ok(Receipt { version: 2, rows: 3, bytes: 0, write_id: None })
    };
    let put = tokio::spawn(Put::of(stream(messages(ON_END, &[3]))).run_with(write));
    at_commit.await.unwrap();
    put.abort();
    assert!(put.await.unwrap_err().is_cancelled());
    proceed.send(()).unwrap();
    finished.await.unwrap();
}

#[tokio::test]
async fn an_early_error_is_told_at_once() {
    let write =
        |_: SchemaRef, _: BatchStream| async { Err(Error::not_found("table t does not exist")) };
    let quiet = futures::stream::iter(messages(ON_END, &[3])).chain(futures::stream::pending());
    let error = Put::of(quiet).run_with(write).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_early_receipt_waits_for_the_end_of_the_stream() {
    let earlier = Receipt { version: 9, rows: 7, bytes: 0, write_id: Some("w".to_owned()) };
    let receipt = earlier.clone();
    let repeat = move |_: SchemaRef, _: BatchStream| {
        let receipt = receipt.clone();
        async { Ok(receipt) }
    };
    let all = |rows| [messages(EXPLICIT, &[3, 4]), vec![marker(rows)]].concat();
    assert_eq!(Put::of(stream(all(7))).run_with(repeat.clone()).await.unwrap(), earlier);
    let error = Put::of(stream(all(8))).run_with(repeat.clone()).await.unwrap_err();
    assert!(error.message().contains("8 rows and 7 came"), "{error}");
    let broken = Put { clean: false, ..Put::of(stream(all(7))) };
    assert_eq!(broken.run_with(repeat).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_write_that_panics_is_of_unknown_outcome_only_after_its_stream() {
    let late = |_: SchemaRef, mut batches: BatchStream| async move {
        while let Some(item) = batches.next().await {
            item?;
        }
        panic!("on purpose")
    };
    let error = Put::of(stream(messages(ON_END, &[3]))).run_with(late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    let early = |_: SchemaRef, _: BatchStream| async { panic!("on purpose") };
    let quiet = futures::stream::iter(messages(ON_END, &[3])).chain(futures::stream::pending());
    let error = Put::of(quiet).run_with(early).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}
