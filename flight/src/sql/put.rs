//! DoPut of Flight SQL: statements that change tables, and parameters.
//!
//! A statement without parameters is complete with its first message and runs then: some clients do not
//! end their stream before they have the answer. Parameters are read to the clean end of the stream.

use std::sync::Arc;

use arrow_flight::sql::{Command, DoPutPreparedStatementResult, DoPutUpdateResult};
use arrow_flight::{FlightData, PutResult};
use bytes::Bytes;
use futures::Stream;
use lakebed_core::{Error, Result};
use lakebed_service::Service;
use prost::Message;
use tonic::Status;

use super::{parameters, query};
use crate::do_put::PutMessages;
use crate::request::Call;

/// Runs a command that is no ingest.
pub(crate) async fn do_put<S>(
    service: &Arc<Service>,
    call: &Call,
    command: Command,
    first: FlightData,
    messages: &mut PutMessages<S>,
) -> Result<PutResult>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    let limits = service.limits();
    match command {
        Command::CommandStatementUpdate(update) => {
            query::no_transaction(update.transaction_id.as_deref())?;
            let request = super::request(call, update.query);
            updated(service.change_sql(&call.ctx, request, None).await?)
        }
        Command::CommandPreparedStatementUpdate(update) => {
            let handle = query::handle_of(&update.prepared_statement_handle)?;
            let bound = parameters::read(first, messages, limits).await?;
            updated(service.change_prepared(&call.ctx, handle, bound).await?)
        }
        Command::CommandPreparedStatementQuery(query) => {
            let handle = query::handle_of(&query.prepared_statement_handle)?;
            let bound = parameters::read(first, messages, limits).await?;
            service.bind_prepared(&call.ctx, handle, bound)?;
            let result = DoPutPreparedStatementResult {
                prepared_statement_handle: Some(query.prepared_statement_handle.clone()),
            };
            Ok(PutResult { app_metadata: Bytes::from(result.encode_to_vec()) })
        }
        other => Err(super::not_for(&other, "DoPut")),
    }
}

/// The answer of a change.
pub(crate) fn updated(rows: u64) -> Result<PutResult> {
    let record_count = i64::try_from(rows).map_err(|_| Error::internal("too many rows"))?;
    let result = DoPutUpdateResult { record_count };
    Ok(PutResult { app_metadata: Bytes::from(result.encode_to_vec()) })
}
