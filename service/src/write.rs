//! All writes of batches: create, append, overwrite, upsert.
//!
//! Walk: authorise → check the command → admit → storage writes and commits → audit. The rows are
//! streamed; memory for them is admitted batch by batch, by the door that decodes them.

use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_proto::command::{WriteCommand, WriteMode};
use lakebed_proto::receipt::Receipt;
use lakebed_storage::{CommitReceipt, MergeRule, Prepared, WriteOptions, schema_digest};

use crate::admission::Permit;
use crate::audit::AuditLine;
use crate::{BatchStream, Service};

impl Service {
    /// Takes memory for a batch that is about to be decoded for [`Service::write`]. The share is to be
    /// kept with the batch until the write asks for the one after it.
    ///
    /// # Errors
    /// `Busy` naming the limit when not enough became free in time.
    pub async fn admit_batch(&self, bytes: u64) -> Result<Permit> {
        self.admission.write_bytes(usize::try_from(bytes).unwrap_or(usize::MAX)).await
    }

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
        let table = format!("{}/{}", ctx.database, command.table);
        self.permit(ctx, Role::Write, command.mode.name(), Some(&table))?;
        let _guard = self.gate.enter()?;
        let outcome = self.write_admitted(ctx, &command, schema, batches).await;
        let mut line = AuditLine::new(ctx, command.mode.name()).outcome(&outcome);
        line.table = Some(table);
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
                    self.lake.create_table(&id, schema, batches, options).await.map_err(taken)?
                }
            },
            WriteMode::Append => {
                self.fresh_table(ctx, &id, branch)
                    .await?
                    .append(branch, schema, batches, options)
                    .await?
            }
            WriteMode::Upsert => {
                let (table, on) = (self.fresh_table(ctx, &id, branch).await?, &command.on);
                let rule = MergeRule::upsert();
                match table.prepare_upsert(branch, on, rule, schema, batches, options).await? {
                    Prepared::Repeat(receipt) => receipt,
                    Prepared::Ready(upsert) => {
                        if upsert.wants_key_index() {
                            lakebed_index::ensure_key_index(&table, branch, on).await?;
                        }
                        upsert.commit().await?.receipt
                    }
                }
            }
        };
        if !done.is_repeat {
            metrics::counter!("lakebed_written_rows_total", "mode" => command.mode.name())
                .increment(done.rows);
            metrics::counter!("lakebed_written_bytes_total", "mode" => command.mode.name())
                .increment(done.bytes);
        }
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

/// An overwrite whose table did not exist when it began, and does now: the next one will find it.
fn taken(error: Error) -> Error {
    match error.kind() {
        ErrorKind::AlreadyExists => Error::new(
            ErrorKind::Conflict,
            "another write made the table while this one made it too; send it again",
        )
        .with_source(error),
        _ => error,
    }
}

fn receipt_of(done: CommitReceipt, write_id: Option<String>) -> Receipt {
    Receipt { version: done.version, rows: done.rows, bytes: done.bytes, write_id }
}
