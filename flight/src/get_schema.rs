//! GetSchema: the schema of a read or of a statement.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, SchemaAsIpc, SchemaResult};
use arrow_ipc::writer::IpcWriteOptions;
use lakebed_core::{Error, Result};
use lakebed_service::Service;

use crate::descriptor::{changes_command, read_command, search_command, sql_command};
use crate::request::Call;
use crate::{changes, search, sql};

/// The schema that reading `descriptor` would give.
pub(crate) async fn get_schema(
    service: &Arc<Service>,
    call: &Call,
    descriptor: &FlightDescriptor,
) -> Result<SchemaResult> {
    let schema = if let Some(command) = sql_command(descriptor)? {
        sql::schema(service, call, command).await?
    } else if let Some(request) = search_command(descriptor)? {
        search::schema(service, call, request).await?
    } else if let Some(command) = changes_command(descriptor)? {
        changes::schema(service, call, command).await?
    } else {
        let command = read_command(&call.ctx.database, descriptor)?;
        service.read_schema(&call.ctx, &command).await?
    };
    SchemaAsIpc::new(&schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))
}
