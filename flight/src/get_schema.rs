//! GetSchema: the schema of a read or of a statement.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, SchemaAsIpc, SchemaResult};
use arrow_ipc::writer::IpcWriteOptions;
use lakebed_core::{Error, Result};
use lakebed_service::Service;

use crate::descriptor::{read_command, sql_command};
use crate::request::Call;
use crate::sql;

/// The schema that reading `descriptor` would give.
pub(crate) async fn get_schema(
    service: &Arc<Service>,
    call: &Call,
    descriptor: &FlightDescriptor,
) -> Result<SchemaResult> {
    let schema = match sql_command(descriptor)? {
        Some(command) => sql::schema(service, call, command).await?,
        None => {
            let command = read_command(&call.ctx.database, descriptor)?;
            service.read_schema(&call.ctx, &command).await?
        }
    };
    SchemaAsIpc::new(&schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))
}
