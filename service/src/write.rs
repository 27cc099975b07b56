//! All writes of batches: create, append, overwrite, upsert.
//!
//! Walk: authorise → admit → check the command → storage writes and commits → audit. The rows are
//! streamed; memory for them is admitted batch by batch at the door that decodes them, and here once
//! for what the writer holds.

use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_proto::command::{WriteCommand, WriteMode};
use lakebed_proto::receipt::Receipt;
use lakebed_storage::{CommitReceipt, WriteOptions, schema_digest};

use crate::audit::AuditLine;
use crate::authenticate::require;
use crate::{BatchStream, Service};

/// Memory that one running write takes beyond the batch in hand: pages being encoded.
const WRITE_BYTES: usize = 16 << 20;

impl Service {
    /// Writes batches; commits only when `batches` ends without `Err`. The receipt comes when the rows
    /// are durable and visible.
    ///
    /// # Errors
    /// `NotFound` for append or upsert to a missing table, `AlreadyExists` for create on an existing one
    /// or a write id that was used differently, `InvalidArgument` for what does not fit, and the error
    /// of `batches` itself. Nothing was written then.
    pub async fn write(
        &self,
        ctx: &RequestContext,
        command: WriteCommand,
        schema: SchemaRef,
        batches: BatchStream,
    ) -> Result<Receipt> {
        require(ctx, Role::Write)?;
        let _guard = self.gate.enter()?;
        let outcome = self.write_admitted(ctx, &command, schema, batches).await;
        let mut line = AuditLine::new(ctx, command.mode.name()).outcome(&outcome);
        line.table = Some(format!("{}/{}", ctx.database, command.table));
        if let Ok(receipt) = &outcome {
            line.version = Some(receipt.version);
            line.rows = Some(receipt.rows);
            line.bytes = Some(receipt.bytes);
        }
        self.audit.record(line);
        outcome
    }

    async fn write_admitted(
        &self,
        ctx: &RequestContext,
        command: &WriteCommand,
        schema: SchemaRef,
        batches: BatchStream,
    ) -> Result<Receipt> {
        self.check_write(command)?;
        let id = TableId::parse(&ctx.database, &command.table)?;
        let _request = self.admission.admit_request().await?;
        let _memory = self.admission.write_bytes(WRITE_BYTES).await?;
        let options = WriteOptions {
            write_id: command.write_id.clone(),
            mode: format!("{}:{}", command.mode.name(), command.on.join(",")),
            schema_digest: schema_digest(&schema),
        };
        let branch = command.branch.as_deref();
        let done = match command.mode {
            WriteMode::Create => {
                main_only(branch, "create")?;
                self.lake.create_table(&id, schema, batches, options).await?
            }
            WriteMode::Overwrite => match self.lake.find_table(&id).await? {
                Some(table) => table.overwrite(branch, schema, batches, options).await?,
                None => {
                    main_only(branch, "overwrite of a missing table")?;
                    self.lake.create_table(&id, schema, batches, options).await?
                }
            },
            WriteMode::Append => {
                self.lake.table(&id).await?.append(branch, schema, batches, options).await?
            }
            WriteMode::Upsert => {
                let table = self.lake.table(&id).await?;
                if table.is_partial_beside_blobs(branch, &schema).await? {
                    self.check_key_columns(&command.on, &schema)?;
                    lakebed_index::ensure_key_index(&table, branch, &command.on).await?;
                }
                table.upsert(branch, &command.on, schema, batches, options).await?
            }
        };
        metrics::counter!("lakebed_written_rows_total", "mode" => command.mode.name())
            .increment(done.rows);
        metrics::counter!("lakebed_written_bytes_total", "mode" => command.mode.name())
            .increment(done.bytes);
        Ok(receipt_of(done, command.write_id.clone()))
    }

    fn check_write(&self, command: &WriteCommand) -> Result<()> {
        if command.mode != WriteMode::Upsert && !command.on.is_empty() {
            return Err(Error::invalid("`on` is only for upserts"));
        }
        if command.mode == WriteMode::Upsert && command.on.is_empty() {
            return Err(Error::invalid("an upsert needs its key columns in `on`"));
        }
        let bytes_max = self.limits.write_id_bytes_max;
        match &command.write_id {
            Some(id) if id.is_empty() => Err(Error::invalid("`write_id` is empty")),
            Some(id) if id.len() > bytes_max => Err(Error::invalid(format!(
                "`write_id` has {} bytes; the limit write_id_bytes_max is {bytes_max}",
                id.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Checked before an index is built for them.
    fn check_key_columns(&self, on: &[String], schema: &SchemaRef) -> Result<()> {
        match on.iter().find(|key| schema.field_with_name(key).is_err()) {
            Some(key) => Err(Error::invalid(format!("key column `{key}` was not sent"))),
            None => Ok(()),
        }
    }
}

fn main_only(branch: Option<&str>, what: &str) -> Result<()> {
    match branch {
        None | Some("main") => Ok(()),
        Some(branch) => Err(Error::new(
            ErrorKind::NotFound,
            format!("{what} goes to main; branch `{branch}` does not exist"),
        )),
    }
}

fn receipt_of(done: CommitReceipt, write_id: Option<String>) -> Receipt {
    Receipt { version: done.version, rows: done.rows, bytes: done.bytes, write_id }
}
