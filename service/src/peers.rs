//! What servers of one lake ask of each other: changes in SQL, which are known only once their text was
//! read; vectors of texts and pictures, for which workers are attached to one of them; and the lead of
//! tables.

use arrow_array::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use lakebed_core::{Error, ErrorKind, Freshness, Principal, RequestContext, Result, Role, TableId};
use lakebed_jobs::QueryInput;
use lakebed_proto::status::{KIND_HEADER, RETRY_AFTER_HEADER};
use lakebed_sql::{Scope, Statement};
use lakebed_storage::{ServerAddresses, Servers};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::forward::{ForwardBody, Forwarded, Led, Port};

/// Where a server takes changes of the others.
pub const PEER_SQL_PATH: &str = "/v1/peers/sql";
/// Where a server embeds for the others.
pub const PEER_EMBED_PATH: &str = "/v1/peers/embed";
/// Where a server is asked for the lead of a table.
pub const PEER_GIVE_PATH: &str = "/v1/peers/give";
/// Who asks, among servers: its id and its secret, with a colon between them.
pub const PEER_HEADER: &str = "x-lakebed-peer";
/// An answer is a number, a vector or an error.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A change that another server leads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerChange {
    text: String,
    scope: Scope,
    key_id: String,
    role: String,
    request_id: String,
    /// The parameters as an Arrow IPC stream in base64.
    parameters: Option<String>,
}

/// A text or a picture to embed, for another server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEmbed {
    model: String,
    digest: Option<String>,
    text: Option<String>,
    /// In base64.
    picture: Option<String>,
}

/// A table whose lead another server wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerGive {
    /// The table's uid.
    table: String,
    /// The id of the server that is to lead it.
    to: String,
}

#[derive(Debug, Deserialize)]
struct Rows {
    rows: u64,
}

#[derive(Debug, Deserialize)]
struct Vector {
    vector: Vec<f32>,
}

impl Service {
    /// Whether a request comes from a server of the lake that is there.
    ///
    /// # Errors
    /// `Unauthenticated` when it does not, `Unavailable` when the store does not answer.
    pub async fn authenticate_peer(&self, header: Option<&str>) -> Result<()> {
        let refused = || Error::new(ErrorKind::Unauthenticated, "not a server of this lake");
        let (id, secret) = header.and_then(|value| value.split_once(':')).ok_or_else(refused)?;
        let servers = self.lake.servers().ok_or_else(refused)?;
        match servers.knows(id, secret).await? {
            true => Ok(()),
            false => Err(refused()),
        }
    }

    /// Runs a change for another server of the lake.
    ///
    /// # Errors
    /// As [`Service::change_sql`].
    pub async fn change_for_peer(self: &std::sync::Arc<Self>, change: PeerChange) -> Result<u64> {
        let PeerChange { text, scope, key_id, role, request_id, parameters } = change;
        let role = Role::parse(&role).ok_or_else(|| Error::invalid("the role is not known"))?;
        let database = lakebed_core::DatabaseName::parse(scope.database())?;
        let ctx = RequestContext {
            principal: Principal { key_id, role },
            request_id,
            database,
            freshness: Freshness::default(),
        };
        let parameters = parameters.as_deref().map(decode_batch).transpose()?;
        let statement = Statement::parse(&text, &self.limits)?;
        self.change_here(&ctx, scope, statement, parameters).await
    }

    /// Has a change carried out by the server that leads its table; nothing when that is this one.
    ///
    /// # Errors
    /// What the other server answered, and those of [`Service::forward`].
    pub(crate) async fn change_elsewhere(
        &self,
        ctx: &RequestContext,
        table: TableId,
        scope: &Scope,
        statement: &Statement,
        parameters: Option<&RecordBatch>,
    ) -> Result<Option<u64>> {
        let Some(servers) = self.lake.servers().filter(|_| !self.is_alone()) else {
            return Ok(None);
        };
        let change = PeerChange {
            text: statement.text().to_owned(),
            scope: scope.clone(),
            key_id: ctx.principal.key_id.clone(),
            role: ctx.principal.role.name().to_owned(),
            request_id: ctx.request_id.clone(),
            parameters: parameters.map(encode_batch).transpose()?,
        };
        let request = peer_request(servers, PEER_SQL_PATH, &change)?;
        match self.forward(&Led::Table(table), Port::Http, request).await? {
            Forwarded::Here(_) => Ok(None),
            Forwarded::Answered(answer) => {
                let answer: Rows = answer_of(answer).await?;
                Ok(Some(answer.rows))
            }
        }
    }

    /// The vector of a text or picture by the worker of whichever server runs the jobs.
    ///
    /// # Errors
    /// As embedding it here.
    pub(crate) async fn embed(
        &self,
        model: &str,
        digest: Option<&str>,
        input: QueryInput,
    ) -> Result<Vec<f32>> {
        let Some(servers) = self.lake.servers().filter(|_| !self.is_alone()) else {
            return self.column_jobs.embed(model, digest, input).await;
        };
        let (text, picture) = match &input {
            QueryInput::Text(text) => (Some(text.clone()), None),
            QueryInput::Picture(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        let digest_text = digest.map(str::to_owned);
        let asked = PeerEmbed { model: model.to_owned(), digest: digest_text, text, picture };
        let request = peer_request(servers, PEER_EMBED_PATH, &asked)?;
        match self.forward(&Led::Jobs, Port::Http, request).await? {
            Forwarded::Here(_) => self.column_jobs.embed(model, digest, input).await,
            Forwarded::Answered(answer) => {
                let answer: Vector = answer_of(answer).await?;
                Ok(answer.vector)
            }
        }
    }

    /// Embeds for another server of the lake.
    ///
    /// # Errors
    /// As [`lakebed_jobs::ColumnJobs::embed`].
    pub async fn embed_for_peer(&self, asked: PeerEmbed) -> Result<Vec<f32>> {
        let PeerEmbed { model, digest, text, picture } = asked;
        let input = match (text, picture) {
            (Some(text), None) => QueryInput::Text(text),
            (None, Some(picture)) => {
                let bytes = STANDARD.decode(picture).map_err(|error| {
                    Error::invalid("the picture cannot be read").with_source(error)
                })?;
                QueryInput::Picture(bytes.into())
            }
            _ => return Err(Error::invalid("either a text or a picture")),
        };
        self.column_jobs.embed(&model, digest.as_deref(), input).await
    }

    /// Asks another server for the lead of a table.
    pub(crate) async fn ask_for_lead(&self, leader: &ServerAddresses, uid: &str) -> Result<()> {
        let Some(servers) = self.lake.servers() else { return Ok(()) };
        let asked = PeerGive { table: uid.to_owned(), to: servers.me().id.clone() };
        let request = peer_request(servers, PEER_GIVE_PATH, &asked)?;
        let answer = self.send_once(leader, request).await?;
        match answer_of::<serde_json::Value>(answer).await {
            // Somebody else leads by now.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    /// Gives the lead of a table to another server of the lake.
    ///
    /// # Errors
    /// As [`lakebed_storage::Lake::give_lead`].
    pub async fn give_to_peer(&self, asked: PeerGive) -> Result<()> {
        self.lake.give_lead(&asked.table, &asked.to).await
    }
}

/// A request of one server to another.
pub(crate) fn peer_request(
    servers: &Servers,
    path: &str,
    body: &impl Serialize,
) -> Result<Request<ForwardBody>> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Error::internal("encode a request").with_source(error))?;
    peer_request_of(servers, path, "application/json", Bytes::from(body))
}

/// A request of one server to another with bytes of some type.
pub(crate) fn peer_request_of(
    servers: &Servers,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> Result<Request<ForwardBody>> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(CONTENT_TYPE, content_type)
        .header(PEER_HEADER, servers.credentials())
        .body(Full::new(body).map_err(|never| match never {}).boxed_unsync())
        .map_err(|error| Error::internal("a request cannot be written").with_source(error))
}

/// What another server answered.
async fn answer_of<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T> {
    let bytes = answer_bytes(answer, ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| broke_off().with_source(error))
}

fn broke_off() -> Error {
    Error::new(ErrorKind::CommitUnknown, "the answer of another server broke off")
}

/// The bytes that another server answered.
pub(crate) async fn answer_bytes(answer: Response<Incoming>, bytes_max: usize) -> Result<Bytes> {
    #[derive(Deserialize)]
    struct Failure {
        error: String,
    }
    let (parts, body) = answer.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let unknown = broke_off;
    let bytes = Limited::new(body, bytes_max)
        .collect()
        .await
        .map_err(|error| unknown().with_source(error))?
        .to_bytes();
    if parts.status.is_success() {
        return Ok(bytes);
    }
    let kind = header(KIND_HEADER)
        .and_then(|name| ErrorKind::ALL.into_iter().find(|kind| kind.name() == name));
    let Some(kind) = kind else { return Err(unknown()) };
    let failure: Failure =
        serde_json::from_slice(&bytes).map_err(|error| unknown().with_source(error))?;
    let error = Error::new(kind, failure.error);
    Err(match header(RETRY_AFTER_HEADER).and_then(|ms| ms.parse().ok()) {
        Some(ms) => error.with_retry_after_ms(ms),
        None => error,
    })
}

fn encode_batch(batch: &RecordBatch) -> Result<String> {
    let failed = |error| Error::internal("parameters cannot be encoded").with_source(error);
    let mut bytes = Vec::new();
    let mut writer =
        arrow_ipc::writer::StreamWriter::try_new(&mut bytes, &batch.schema()).map_err(failed)?;
    writer.write(batch).and_then(|()| writer.finish()).map_err(failed)?;
    drop(writer);
    Ok(STANDARD.encode(bytes))
}

fn decode_batch(text: &str) -> Result<RecordBatch> {
    let wrong = || Error::invalid("the parameters of a change cannot be read");
    let bytes = STANDARD.decode(text).map_err(|error| wrong().with_source(error))?;
    let mut batches = arrow_ipc::reader::StreamReader::try_new(bytes.as_slice(), None)
        .map_err(|error| wrong().with_source(error))?;
    batches.next().ok_or_else(wrong)?.map_err(|error| wrong().with_source(error))
}
