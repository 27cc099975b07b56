//! ListFlights: the tables of the request's database, described one by one as the client takes them.

use std::sync::Arc;

use arrow_flight::{Criteria, FlightDescriptor, FlightInfo};
use futures::{Stream, StreamExt};
use lakebed_core::{Error, ErrorKind, Result, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_service::Service;
use tonic::Status;

use crate::get_flight_info::flight_info;
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

/// As GetFlightInfo of the whole table: its tickets name the version that was listed and keep it.
async fn describe(service: &Service, call: &Call, id: &TableId) -> Result<FlightInfo> {
    let command = ReadCommand { table: id.text(), ..ReadCommand::default() };
    let plan = service.plan_read(&call.ctx, command).await?;
    let path = id.namespace.segments().iter().cloned().chain([id.name.to_string()]).collect();
    flight_info(&plan, FlightDescriptor::new_path(path))
}
