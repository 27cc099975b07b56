//! A server on a loopback port, and clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, FlightInfo, PutResult, Ticket};
use futures::{Stream, StreamExt, TryStreamExt};
use lakebed_core::{DatabaseName, Limits, SystemClock, TableId};
use lakebed_proto::receipt::Receipt;
use lakebed_proto::worker::v1::worker_service_client::WorkerServiceClient;
use lakebed_service::{Service, ServiceOptions};
use lakebed_storage::{At, Lake, LakeOptions};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status, Streaming};

pub type Client = FlightServiceClient<Channel>;

/// A running server over a lake of its own.
pub struct Harness {
    pub address: SocketAddr,
    pub service: Arc<Service>,
    lake: Arc<Lake>,
    _folder: tempfile::TempDir,
}

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub version: u64,
    pub rows: u64,
}

impl Harness {
    /// A server that asks for no keys.
    pub async fn start() -> Harness {
        Harness::with(Limits::default(), true).await
    }

    pub async fn with(limits: Limits, allow_anonymous: bool) -> Harness {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap().to_owned();
        let options = LakeOptions { limits: limits.clone(), ..LakeOptions::at(root) };
        let lake = Lake::open(options).await.unwrap();
        let options = ServiceOptions {
            lake: Arc::clone(&lake),
            limits,
            clock: Arc::new(SystemClock),
            allow_anonymous,
            peer_tls: None,
            resident: Default::default(),
            secrets_key_file: None,
        };
        let service = Service::open(options).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = lakebed_flight::flight_service(Arc::clone(&service));
        let worker = lakebed_flight::worker_service(Arc::clone(&service));
        let server = Server::builder().add_service(door).add_service(worker);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Harness { address, service, lake, _folder: folder }
    }

    /// A connection of its own.
    pub async fn client(&self) -> Client {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        FlightServiceClient::new(endpoint.connect().await.unwrap())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(128 << 20)
    }

    /// A connection for the worker protocol.
    pub async fn worker_client(&self) -> WorkerServiceClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        WorkerServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// What `table` holds by the lake's own account.
    pub async fn state(&self, table: &str) -> Option<State> {
        let id = TableId::parse(&DatabaseName::default_database(), table).unwrap();
        let table = self.lake.find_table(&id).await.unwrap()?;
        let snapshot = table.snapshot(None, &At::Latest).await.unwrap();
        let rows = snapshot.count_rows().await.unwrap();
        Some(State { version: snapshot.version(), rows })
    }

    /// Writes 3 rows into a new table and says what it holds.
    pub async fn seeded(&self, table: &str) -> State {
        let command = format!(r#"{{"write":{{"table":"{table}","mode":"create"}}}}"#);
        put(&mut self.client().await, &command, &[batch(0..3)]).await.unwrap();
        self.state(table).await.unwrap()
    }

    /// Shows that the server still serves and that nothing but `before` and two new rows is there,
    /// also once every write that was under way has come to its end.
    pub async fn assert_untouched(&self, table: &str, before: State) {
        let mut client = self.client().await;
        let command = format!(r#"{{"write":{{"table":"{table}","mode":"append"}}}}"#);
        let receipt = put(&mut client, &command, &[batch(900..902)]).await.unwrap();
        let after = State { version: before.version + 1, rows: before.rows + 2 };
        assert_eq!(receipt.version, after.version);
        assert_eq!(self.state(table).await, Some(after));
        // Shutdown waits for whatever still runs.
        self.service.shutdown(Instant::now() + Duration::from_secs(20)).await;
        assert_eq!(self.state(table).await, Some(after));
    }
}

/// Rows with an id and a text.
pub fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
    let texts = StringArray::from_iter_values(ids.clone().map(|id| format!("row {id}")));
    let ids = Int64Array::from_iter_values(ids);
    RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("text", Arc::new(texts))])
        .unwrap()
}

pub fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| batch.column_by_name("id").unwrap().clone();
    let values = |column: ArrayRef| column.as_any().downcast_ref::<Int64Array>().unwrap().clone();
    batches.iter().flat_map(|batch| values(column(batch)).values().to_vec()).collect()
}

/// The messages of a put: descriptor and schema, then the batches.
pub async fn messages(command: &str, batches: &[RecordBatch]) -> Vec<FlightData> {
    let batches: Vec<_> = batches.iter().cloned().map(Ok).collect();
    FlightDataEncoderBuilder::new()
        .with_schema(batch(0..0).schema())
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command.to_owned())))
        .build(futures::stream::iter(batches))
        .try_collect()
        .await
        .unwrap()
}

pub fn marker(rows: u64) -> FlightData {
    FlightData::new().with_app_metadata(format!(r#"{{"commit":true,"rows":{rows}}}"#))
}

/// A put whose stream ends cleanly after `messages`.
pub async fn send(client: &mut Client, messages: Vec<FlightData>) -> Result<Receipt, Status> {
    receipt(client.do_put(futures::stream::iter(messages)).await?.into_inner()).await
}

pub async fn receipt(mut results: Streaming<PutResult>) -> Result<Receipt, Status> {
    let result = results.message().await?.expect("a put answers with a result");
    assert!(results.message().await?.is_none(), "a put answers once");
    Ok(serde_json::from_slice(&result.app_metadata).unwrap())
}

pub async fn put(
    client: &mut Client,
    command: &str,
    batches: &[RecordBatch],
) -> Result<Receipt, Status> {
    send(client, messages(command, batches).await).await
}

/// Reads what a ticket gives.
pub async fn get(client: &mut Client, ticket: Ticket) -> Result<Vec<RecordBatch>, Status> {
    collect(client.do_get(ticket).await?.into_inner()).await
}

pub async fn collect(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Vec<RecordBatch>, Status> {
    let mut decoder = FlightDataDecoder::new(messages.map_err(FlightError::from));
    let mut batches = Vec::new();
    while let Some(message) = decoder.next().await {
        match message {
            Ok(message) => match message.payload {
                DecodedPayload::RecordBatch(batch) => batches.push(batch),
                DecodedPayload::Schema(_) | DecodedPayload::None => {}
            },
            Err(FlightError::Tonic(status)) => return Err(*status),
            Err(error) => panic!("the answer cannot be decoded: {error}"),
        }
    }
    Ok(batches)
}

pub async fn info(client: &mut Client, command: &str) -> Result<FlightInfo, Status> {
    let descriptor = FlightDescriptor::new_cmd(command.to_owned());
    Ok(client.get_flight_info(Request::new(descriptor)).await?.into_inner())
}

/// Reads every endpoint of a plan in its order.
pub async fn read(client: &mut Client, command: &str) -> Result<Vec<RecordBatch>, Status> {
    let mut batches = Vec::new();
    for endpoint in info(client, command).await?.endpoint {
        batches.extend(get(client, endpoint.ticket.unwrap()).await?);
    }
    Ok(batches)
}
