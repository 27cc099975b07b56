//! Calls of SQL on a lake with several servers: rows go to the one that runs the jobs, whose workers compute
//! them.
//!
//! A request has a group of rows as an Arrow IPC stream, and in the metadata of its schema what is called; the
//! answer is a stream with one column. A statement that is called off drops its requests, and with them what
//! the other server began.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, TableId};
use lakebed_sql::{Callee, Callees as _};
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::forward::{Forwarded, Led, Port};
use crate::functions::Calls;
use crate::peers::{answer_bytes, peer_request_of};

/// Where a server takes calls of the others.
pub const PEER_CALL_PATH: &str = "/v1/peers/call";
/// Bytes of a group of rows, and of its results.
pub const PEER_CALL_BYTES_MAX: usize = 160 << 20;
/// Where the schema of the rows says what is called.
const CALL: &str = "lakebed:call";

/// What another server is to call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerCall {
    /// A model, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    function: Option<PeerFunction>,
    /// The constants of a function: an Arrow IPC stream of one row in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    constants: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerFunction {
    database: String,
    id: String,
    uid: String,
    number: u64,
}

impl Service {
    /// The results of a call by the server that runs the jobs; nothing when that is this one.
    pub(crate) async fn call_elsewhere(
        &self,
        callee: &Callee,
        constants: Option<&RecordBatch>,
        arguments: &RecordBatch,
    ) -> Result<Option<ArrayRef>> {
        let Some(servers) = self.lake.servers() else { return Ok(None) };
        let function = match callee {
            Callee::Model(_) => None,
            Callee::Function(function) => Some(PeerFunction {
                database: function.id.database.to_string(),
                id: function.id.text(),
                uid: function.uid.clone(),
                number: function.number,
            }),
        };
        let model = match callee {
            Callee::Model(model) => Some(model.name.clone()),
            Callee::Function(_) => None,
        };
        let constants = constants.map(encode).transpose()?;
        let call = PeerCall { model, function, constants: constants.map(|it| STANDARD.encode(it)) };
        let call = serde_json::to_string(&call)
            .map_err(|error| Error::internal("encode a call").with_source(error))?;
        let metadata = HashMap::from([(CALL.to_owned(), call)]);
        let schema = Schema::new_with_metadata(arguments.schema().fields().clone(), metadata);
        let rows = arguments
            .clone()
            .with_schema(Arc::new(schema))
            .map_err(|error| Error::internal("encode a call").with_source(error))?;
        let body = Bytes::from(encode(&rows)?);
        let request =
            peer_request_of(servers, PEER_CALL_PATH, "application/vnd.apache.arrow.stream", body)?;
        let answered = async {
            match self.forward(&Led::Jobs, Port::Http, request).await? {
                Forwarded::Here(_) => Ok(None),
                Forwarded::Answered(answer) => {
                    answer_bytes(answer, PEER_CALL_BYTES_MAX).await.map(Some)
                }
            }
        };
        let bytes = answered.await.map_err(|error| match error.kind() {
            // Nothing was to be committed.
            ErrorKind::CommitUnknown => {
                Error::new(ErrorKind::Unavailable, "the server that runs the jobs went away")
                    .with_source(error)
            }
            _ => error,
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let results = decode(&bytes)?;
        match (results.num_columns(), results.num_rows() == arguments.num_rows()) {
            (1, true) => Ok(Some(Arc::clone(results.column(0)))),
            _ => Err(Error::internal("another server gave other results than were asked for")),
        }
    }

    /// Makes a call for another server of the lake; rows and results as in this module.
    ///
    /// # Errors
    /// `Unavailable` when no worker can run it, `InvalidArgument` with the error of a row.
    pub async fn call_for_peer(self: &Arc<Self>, body: &[u8]) -> Result<Vec<u8>> {
        let rows = decode(body)?;
        let schema = rows.schema();
        let call = schema.metadata().get(CALL);
        let call = call.ok_or_else(|| Error::invalid("the rows do not say what is called"))?;
        let PeerCall { model, function, constants } = serde_json::from_str(call)
            .map_err(|error| Error::invalid(format!("the call is not understood: {error}")))?;
        let calls = Calls::default();
        calls.serve(self);
        let callee = match (model, function) {
            (Some(name), None) => {
                let found = calls.models()?.into_iter().find(|model| model.name == name);
                Callee::Model(found.ok_or_else(|| {
                    Error::new(
                        ErrorKind::Unavailable,
                        format!("model {name} is not known any more"),
                    )
                })?)
            }
            (None, Some(PeerFunction { database, id, uid, number })) => {
                let database = DatabaseName::parse(&database)?;
                let id = TableId::parse(&database, &id)?;
                let found = calls.function(&id, Some(number)).await?;
                let found = found.filter(|function| function.uid == uid);
                Callee::Function(Arc::new(found.ok_or_else(|| {
                    Error::not_found(format!("function `{}` was dropped", id.text()))
                })?))
            }
            _ => return Err(Error::invalid("either a model or a function is called")),
        };
        let constants = match constants {
            Some(base64) => {
                let bytes = STANDARD.decode(base64).map_err(|error| {
                    Error::invalid("the constants cannot be read").with_source(error)
                })?;
                Some(decode(&bytes)?)
            }
            None => None,
        };
        let evaluation = self.evaluation(&callee, constants.as_ref()).await?;
        let results = evaluation.evaluate(&rows).await?;
        let field = Field::new("result", results.data_type().clone(), true);
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let schema = Arc::new(Schema::new(vec![field]));
        let results = RecordBatch::try_new_with_options(schema, vec![results], &options)
            .map_err(|error| Error::internal("encode results").with_source(error))?;
        encode(&results)
    }
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>> {
    let failed = |error| Error::internal("rows of a call cannot be encoded").with_source(error);
    let mut writer =
        arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(failed)?;
    writer.write(batch).and_then(|()| writer.finish()).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

fn decode(bytes: &[u8]) -> Result<RecordBatch> {
    let wrong = || Error::invalid("the rows of a call cannot be read");
    let mut batches = arrow_ipc::reader::StreamReader::try_new(bytes, None)
        .map_err(|error| wrong().with_source(error))?;
    batches.next().ok_or_else(wrong)?.map_err(|error| wrong().with_source(error))
}
