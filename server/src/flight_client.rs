//! A small Arrow Flight client for the verbs of the command line: reads, and writes that commit
//! explicitly.
//!
//! What always holds: a write commits only by the marker on its last message, which is sent when its
//! source has ended without an error; and it carries a write id, so that it may be sent again after a
//! connection that broke without being written twice.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    CommandStatementQuery, CommandStatementUpdate, DoPutUpdateResult, ProstMessageExt as _,
};
use arrow_flight::{FlightData, FlightDescriptor, SchemaAsIpc, Ticket};
use arrow_ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{Method, Uri};
use hyper_util::rt::TokioIo;
use lakebed_proto::command::{Command, CommitMarker, CommitRule, ReadCommand, WriteCommand};
use lakebed_proto::receipt::Receipt;
use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::client::{Client, causes};
use crate::exit::Exit;
use crate::trust;

/// Bytes of one message that is read; the server cuts its batches far smaller.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How often a write is sent again after a failure that may pass.
const TRIES_MAX: u32 = 6;
/// How long the first pause between two tries is; each one after it is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// Batches on their way to the server, with the error that ended them.
pub(crate) type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, String>> + Send>>;

/// A client of the Flight port.
#[derive(Clone)]
pub(crate) struct FlightClient {
    inner: FlightServiceClient<Channel>,
    metadata: Vec<(&'static str, MetadataValue<Ascii>)>,
}

/// A call that did not succeed.
#[derive(Debug)]
pub(crate) struct FlightFailure {
    code: Code,
    message: String,
}

impl FlightFailure {
    fn source(message: String) -> Self {
        FlightFailure { code: Code::InvalidArgument, message }
    }

    /// Whether what was to be made is there already.
    pub(crate) fn is_existing(&self) -> bool {
        self.code == Code::AlreadyExists
    }

    /// Whether what was asked for is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.code == Code::NotFound
    }

    fn is_passing(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::Unknown
        )
    }
}

impl From<Status> for FlightFailure {
    fn from(status: Status) -> Self {
        let mut message = status.message().to_owned();
        if let Some(cause) = std::error::Error::source(&status) {
            message = format!("{message}: {}", causes(cause));
        }
        FlightFailure { code: status.code(), message }
    }
}

impl From<FlightFailure> for Exit {
    fn from(failure: FlightFailure) -> Self {
        Exit::failed(failure.message)
    }
}

impl FlightClient {
    /// Finds the Flight port of the server through `/version` and connects.
    ///
    /// # Errors
    /// Failure when the server cannot be reached.
    pub(crate) async fn connect(client: &Client) -> Result<FlightClient, Exit> {
        let version = client.send(Method::GET, "/version", None).await?;
        let address = version["flight"]
            .as_str()
            .ok_or_else(|| Exit::failed("the server does not say where its Flight port is"))?;
        let settings = client.settings();
        let host = host_to_reach(address, &settings.url)?;
        let scheme = if client.has_tls() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
            .map_err(|error| Exit::failed(format!("the Flight address `{address}`: {error}")))?
            .connect_timeout(CONNECT_TIME_MAX)
            .http2_adaptive_window(true);
        let tls = match client.has_tls() {
            false => None,
            true => {
                let config = trust::flight_config(settings.ca_cert.as_deref())?;
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        let connector = tower::service_fn(move |uri: Uri| open(uri, tls.clone()));
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            Exit::failed(format!("Flight at {host} cannot be reached: {}", causes(&error)))
        })?;
        let mut metadata = Vec::new();
        let wrong = |_| Exit::usage("the key or the database cannot travel in a header");
        if let Some(key) = &settings.api_key {
            let mut value = MetadataValue::try_from(format!("Bearer {key}")).map_err(wrong)?;
            value.set_sensitive(true);
            metadata.push(("authorization", value));
        }
        if let Some(database) = &settings.database {
            metadata.push(("database", MetadataValue::try_from(database).map_err(wrong)?));
        }
        let inner = FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(FlightClient { inner, metadata })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.metadata {
            request.metadata_mut().insert(*name, value.clone());
        }
        request
    }

    /// Reads rows, a batch at a time.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn read(
        &self,
        command: ReadCommand,
    ) -> Result<impl Stream<Item = Result<RecordBatch, FlightFailure>> + use<>, FlightFailure> {
        self.rows(&Command::Read(command)).await
    }

    /// The rows of a read or a search.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn rows(
        &self,
        command: &Command,
    ) -> Result<impl Stream<Item = Result<RecordBatch, FlightFailure>> + use<>, FlightFailure> {
        self.stream(Ticket::new(encoded(command)?)).await
    }

    /// Plans a read of one endpoint; what the plan says about it, and its rows.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn planned(
        &self,
        command: &Command,
    ) -> Result<
        (serde_json::Value, impl Stream<Item = Result<RecordBatch, FlightFailure>> + use<>),
        FlightFailure,
    > {
        let descriptor = FlightDescriptor::new_cmd(encoded(command)?);
        let info = self.inner.clone().get_flight_info(self.request(descriptor)).await?.into_inner();
        let wrong = |message: &str| FlightFailure {
            code: Code::Internal,
            message: format!("the plan is not understood: {message}"),
        };
        let about = serde_json::from_slice(&info.app_metadata)
            .map_err(|error| wrong(&error.to_string()))?;
        let mut endpoints = info.endpoint.into_iter();
        let ticket = match (endpoints.next().and_then(|only| only.ticket), endpoints.next()) {
            (Some(ticket), None) => ticket,
            _ => return Err(wrong("it has not one endpoint")),
        };
        Ok((about, self.stream(ticket).await?))
    }

    /// The rows of a query in SQL.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn query(
        &self,
        sql: &str,
    ) -> Result<impl Stream<Item = Result<RecordBatch, FlightFailure>> + use<>, FlightFailure> {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        self.stream(Ticket::new(command.as_any().encode_to_vec())).await
    }

    /// Runs a statement in SQL that changes something; returns the rows that it changed.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn update(&self, sql: &str) -> Result<i64, FlightFailure> {
        let command = CommandStatementUpdate { query: sql.to_owned(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let first = FlightData::new().with_descriptor(descriptor);
        let request = self.request(futures::stream::iter([first]));
        let mut answers = self.inner.clone().do_put(request).await?.into_inner();
        let wrong = |message: String| FlightFailure { code: Code::Internal, message };
        let answer = answers.message().await?;
        let answer = answer.ok_or_else(|| wrong("the statement has no answer".to_owned()))?;
        let result = DoPutUpdateResult::decode(answer.app_metadata)
            .map_err(|error| wrong(format!("the answer cannot be read: {error}")))?;
        Ok(result.record_count)
    }

    async fn stream(
        &self,
        ticket: Ticket,
    ) -> Result<impl Stream<Item = Result<RecordBatch, FlightFailure>> + use<>, FlightFailure> {
        let stream = self.inner.clone().do_get(self.request(ticket)).await?.into_inner();
        let messages = stream.map_err(|status| FlightError::Tonic(Box::new(status)));
        Ok(FlightRecordBatchStream::new_from_flight_data(messages).map_err(|error| match error {
            FlightError::Tonic(status) => FlightFailure::from(*status),
            other => FlightFailure { code: Code::Internal, message: other.to_string() },
        }))
    }

    /// Writes rows and commits them; `batches` is asked for the same rows again for every try.
    ///
    /// # Errors
    /// What the server answered, or the error of the batches; then nothing was written.
    pub(crate) async fn write(
        &self,
        command: WriteCommand,
        schema: SchemaRef,
        mut batches: impl FnMut() -> Batches,
    ) -> Result<Receipt, FlightFailure> {
        let command = WriteCommand { commit: CommitRule::Explicit, ..command };
        let mut pause = PAUSE_FIRST;
        let mut tries = 1;
        loop {
            match self.try_write(&command, &schema, batches()).await {
                Err(failure) if failure.is_passing() && tries < TRIES_MAX => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Writes rows that version `seen` of the table does not have, under a write id that another run may
    /// have used for the same rows. If that write is on its way or was committed since, it is not done
    /// twice. A receipt of `seen` or before is about rows that were deleted again: then the write is
    /// sent under an id of its own.
    ///
    /// # Errors
    /// As [`FlightClient::write`].
    pub(crate) async fn write_missing(
        &self,
        command: WriteCommand,
        schema: SchemaRef,
        mut batches: impl FnMut() -> Batches,
        seen: u64,
    ) -> Result<Receipt, FlightFailure> {
        let first = self.write(command.clone(), Arc::clone(&schema), &mut batches).await;
        let is_done = match &first {
            Ok(receipt) => receipt.version > seen,
            // The same rows once came with other types.
            Err(failure) => !failure.is_existing(),
        };
        if is_done {
            return first;
        }
        let write_id = command.write_id.as_ref().map(|id| format!("{id}-{seen}"));
        self.write(WriteCommand { write_id, ..command }, schema, batches).await
    }

    async fn try_write(
        &self,
        command: &WriteCommand,
        schema: &SchemaRef,
        mut batches: Batches,
    ) -> Result<Receipt, FlightFailure> {
        let descriptor = FlightDescriptor::new_cmd(encoded(&Command::Write(command.clone()))?);
        let options = IpcWriteOptions::default();
        let first =
            FlightData::from(SchemaAsIpc::new(schema, &options)).with_descriptor(descriptor);
        // A queue of two: one message is on its way while the next one is made.
        let (sender, receiver) = tokio::sync::mpsc::channel::<FlightData>(2);
        let feed = tokio::spawn(async move {
            let generator = IpcDataGenerator::default();
            let mut dictionaries = DictionaryTracker::new(false);
            let mut compression = CompressionContext::default();
            let mut rows = 0;
            // When the receiver is gone the call has ended, and its answer says why.
            if sender.send(first).await.is_err() {
                return Ok(());
            }
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                let (before, data) = generator
                    .encode(&batch, &mut dictionaries, &options, &mut compression)
                    .map_err(|error| error.to_string())?;
                rows += batch.num_rows() as u64;
                for message in before.into_iter().chain([data]) {
                    let message = FlightData::new()
                        .with_data_header(Bytes::from(message.ipc_message))
                        .with_data_body(Bytes::from(message.arrow_data));
                    if sender.send(message).await.is_err() {
                        return Ok(());
                    }
                }
            }
            let marker = serde_json::to_vec(&CommitMarker { commit: true, rows })
                .map_err(|error| error.to_string())?;
            let _ = sender.send(FlightData::new().with_app_metadata(marker)).await;
            Ok::<(), String>(())
        });
        let messages = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let answer = async {
            let mut results = self.inner.clone().do_put(self.request(messages)).await?.into_inner();
            let result = results.message().await?;
            result.ok_or_else(|| Status::internal("the server gave no receipt"))
        }
        .await;
        // The error of the source is the one to tell: the server only saw a stream without its marker.
        match feed.await {
            Ok(Err(message)) => return Err(FlightFailure::source(message)),
            Err(_) => return Err(FlightFailure::source("the rows could not be read".to_owned())),
            Ok(Ok(())) => {}
        }
        serde_json::from_slice(&answer?.app_metadata).map_err(|error| FlightFailure {
            code: Code::Internal,
            message: format!("the receipt is not understood: {error}"),
        })
    }
}

fn encoded(command: &Command) -> Result<Vec<u8>, FlightFailure> {
    serde_json::to_vec(command).map_err(|error| FlightFailure::source(error.to_string()))
}

/// Bytes in both directions.
trait Wire: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

async fn open(uri: Uri, tls: Option<TlsConnector>) -> std::io::Result<TokioIo<Pin<Box<dyn Wire>>>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(0))).await?;
    stream.set_nodelay(true)?;
    let wire: Pin<Box<dyn Wire>> = match tls {
        None => Box::pin(stream),
        Some(tls) => {
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            Box::pin(tls.connect(name, stream).await?)
        }
    };
    Ok(TokioIo::new(wire))
}

/// The address to connect to: a server that listens everywhere is where its HTTP port was found, and
/// so is one that is reached by a name, which its certificate is for.
fn host_to_reach(flight: &str, url: &str) -> Result<String, Exit> {
    let wrong = || Exit::failed(format!("the server's Flight address `{flight}` is none"));
    let (host, port) = flight.rsplit_once(':').ok_or_else(wrong)?;
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let bare = host.trim_matches(['[', ']']);
    let is_any = bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    let is_loopback = bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.host() {
        Some(known) if is_any || is_loopback => Ok(format!("{known}:{port}")),
        _ => Ok(flight.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_where_it_was_found() {
        let reach = |flight, url| host_to_reach(flight, url).unwrap();
        assert_eq!(reach("0.0.0.0:10025", "http://lake:10024"), "lake:10025");
        assert_eq!(reach("[::]:10025", "https://[::1]:10024"), "[::1]:10025");
        assert_eq!(reach("127.0.0.1:7", "https://localhost:6/base"), "localhost:7");
        assert_eq!(reach("flight.example:443", "https://lake.example"), "flight.example:443");
        assert!(host_to_reach("nothing", "http://lake").is_err());
    }
}
