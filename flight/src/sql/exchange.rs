//! DoExchange: a statement with its parameters in one call, as LanceDB's clients send it.
//!
//! The first message has the command, then come the parameters' schema and one row; the answer is the
//! rows of the statement.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::sql::Command;
use futures::Stream;
use http::Extensions;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_service::Service;
use tonic::Status;

use super::{parameters, query};
use crate::descriptor::sql_command;
use crate::do_get::{answers, produce};
use crate::do_put::PutMessages;
use crate::request::Call;

/// Runs one DoExchange.
pub(crate) async fn do_exchange<S>(
    service: Arc<Service>,
    call: Call,
    extensions: &Extensions,
    messages: S,
) -> Result<impl Stream<Item = Result<FlightData, Status>> + use<S>, Status>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    let mut messages = PutMessages::new(messages, &call, extensions, service.limits());
    let opened = async {
        let first = messages.next().await?.unwrap_or_default();
        let descriptor = first.flight_descriptor.as_ref();
        let command = descriptor.map(sql_command).transpose()?.flatten();
        let Some(Command::CommandStatementQuery(statement)) = command else {
            return Err(Error::new(
                ErrorKind::NotImplemented,
                "DoExchange takes a flight sql statement; nothing else is built",
            ));
        };
        query::no_transaction(statement.transaction_id.as_deref())?;
        let bound = parameters::read(first, &mut messages, service.limits()).await?;
        service.sql(&call.ctx, super::request(&call, statement.query), bound).await
    };
    let (schema, batches) = opened.await.map_err(|error| call.status(&error))?;
    let (schema, batches) = call.column_types.rows(schema, batches);
    let queue = produce(&service, &call, schema, batches);
    Ok(answers(queue, call))
}
