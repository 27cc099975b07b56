//! GetSchema: the schema of a read without planning it.

use arrow_flight::{FlightDescriptor, SchemaAsIpc, SchemaResult};
use arrow_ipc::writer::IpcWriteOptions;
use lakebed_core::{Error, Result};
use lakebed_service::Service;

use crate::descriptor::read_command;
use crate::request::Call;

/// The schema that reading `descriptor` would give.
pub(crate) async fn get_schema(
    service: &Service,
    call: &Call,
    descriptor: &FlightDescriptor,
) -> Result<SchemaResult> {
    let command = read_command(&call.ctx.database, descriptor)?;
    let schema = service.read_schema(&call.ctx, &command).await?;
    SchemaAsIpc::new(&schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error| Error::internal("a schema cannot be encoded").with_source(error))
}
