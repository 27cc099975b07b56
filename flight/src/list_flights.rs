//! ListFlights: the tables of the request's database, described one by one as the client takes them.

use std::sync::Arc;

use arrow_flight::{Criteria, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use futures::{Stream, StreamExt};
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lakebed_proto::command::{Command, ReadCommand};
use lakebed_service::Service;
use tonic::Status;

use crate::get_flight_info::{UNKNOWN, version_metadata};
use crate::request::Call;

/// Lists the tables whose id begins with the text of `criteria`.
pub(crate) async fn list_flights(
    service: Arc<Service>,
    call: Call,
    criteria: &Criteria,
) -> Result<impl Stream<Item = Result<FlightInfo, Status>> + Send + use<>> {
    let prefix = std::str::from_utf8(&criteria.expression)
        .map_err(|_| Error::invalid("criteria is not text; the beginning of a table's id is"))?
        .to_owned();
    let tables = service.list_tables(&call.ctx, None).await?;
    let ids =
        tables.into_iter().map(|table| table.id).filter(move |id| id.text().starts_with(&prefix));
    Ok(futures::stream::iter(ids).filter_map(move |id| {
        let (service, call) = (Arc::clone(&service), call.clone());
        async move {
            match describe(&service, &call, &id).await {
                Ok(info) => Some(Ok(info)),
                // Dropped since the list was made.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => Some(Err(call.status(&error.context(&id)))),
            }
        }
    }))
}

async fn describe(service: &Service, call: &Call, id: &TableId) -> Result<FlightInfo> {
    let table = service.describe_table(&call.ctx, id, None).await?;
    // A ticket that is planned when it is opened: a list must not hold every table's version.
    let read = ReadCommand { table: id.text(), ..ReadCommand::default() };
    let ticket = serde_json::to_vec(&Command::Read(read))
        .map_err(|error| Error::internal("ticket cannot be written").with_source(error))?;
    let path = id.namespace.segments().iter().cloned().chain([id.name.to_string()]).collect();
    let info = FlightInfo::new()
        .try_with_schema(&table.schema)
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))?;
    Ok(info
        .with_descriptor(FlightDescriptor::new_path(path))
        .with_endpoint(FlightEndpoint::new().with_ticket(Ticket::new(ticket)))
        .with_total_records(i64::try_from(table.rows).unwrap_or(UNKNOWN))
        .with_ordered(true)
        .with_app_metadata(version_metadata(table.version)))
}
