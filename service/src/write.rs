//! All writes of batches.
use arrow_schema::SchemaRef;
use lakebed_core::{RequestContext, Result};
use lakebed_proto::command::WriteCommand;
use lakebed_proto::receipt::Receipt;

use crate::{BatchStream, Service};

impl Service {
    /// Commits only when `batches` ends without `Err`.
    pub async fn write(
        &self,
        _ctx: &RequestContext,
        _command: WriteCommand,
        _schema: SchemaRef,
        _batches: BatchStream,
    ) -> Result<Receipt> {
        unimplemented!()
    }
}
