//! Reads: planned once, then opened part by part.
//!
//! A plan resolves the version, cuts it into parts that can be read in parallel and leases the version
//! for as long as its tickets live. A part carries everything needed to open it, so any server of the
//! lake can, and opening one renews its lease.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, Subject};
use lakebed_proto::command::{BlobMode, Columns, Order, ReadCommand};
use lakebed_storage::{At, Projection, RowMask, ScanSpec, Slice, Snapshot};
use serde::{Deserialize, Serialize};

use crate::authenticate::require;
use crate::row_sets::fix_row_set;
use crate::{BatchStream, Service};

/// A version is cut into at most this many parts.
const PARTS_MAX: u64 = 16;
/// A few parts, for a client with a few readers, may be this small.
const FEW_PARTS: u64 = 4;
const PART_BYTES_MIN: u64 = 32 << 20;
/// More parts than that have to be larger: each begins with a pause of some milliseconds.
const MANY_PARTS_BYTES_MIN: u64 = 256 << 20;
const PART_ROWS_MIN: u64 = 4_096;
/// Memory that one open read may take for read-ahead.
pub(crate) const READ_BYTES: usize = 8 << 20;

/// A planned read.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// The schema of every part.
    pub schema: SchemaRef,
    /// The version that is read.
    pub version: u64,
    /// The rows of all parts, where that is cheap to know.
    pub total_records: Option<u64>,
    /// The bytes of all parts, where that is cheap to know.
    pub total_bytes: Option<u64>,
    /// Whether the parts in their order give the rows in stored order.
    pub ordered: bool,
    /// What can be read in parallel; together the answer once. Never empty.
    pub parts: Vec<ReadPart>,
    /// Until when the parts can be opened, unless use renews them.
    pub expires_at_ms: i64,
}

/// One part of a planned read; opaque to the doors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadPart {
    database: String,
    command: ReadCommand,
    /// The incarnation of the table: a ticket never reads a later table of the same name.
    table_uid: String,
    /// Resolved: the branch and number that `command` named when it was planned.
    branch: Option<String>,
    version: u64,
    slices: Option<Vec<Slice>>,
    expires_at_ms: i64,
}

impl ReadPart {
    /// The version that the part reads.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn expires_at_ms(&self) -> i64 {
        self.expires_at_ms
    }

    /// Equal for the parts of one plan.
    pub(crate) fn plan_key(&self) -> String {
        format!("{}/{:?}/{}/{}", self.table_uid, self.branch, self.version, self.expires_at_ms)
    }

    #[cfg(test)]
    pub(crate) fn for_test(version: u64, expires_at_ms: i64) -> Self {
        ReadPart {
            database: "default".into(),
            command: ReadCommand::default(),
            table_uid: "u".into(),
            branch: None,
            version,
            slices: None,
            expires_at_ms,
        }
    }
}

impl Service {
    /// Plans a read: pins the version and cuts it into parts.
    ///
    /// # Errors
    /// `NotFound` naming table, version, tag, branch or column; `InvalidArgument` for an expression that
    /// does not parse or fields that contradict each other.
    pub async fn plan_read(&self, ctx: &RequestContext, command: ReadCommand) -> Result<ReadPlan> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        self.check_read(&command)?;
        let snapshot = self.snapshot(ctx, &command).await?;
        let mut command = command;
        let rows = fix_row_set(&snapshot, &mut command.row_set).await?;
        let spec = scan_spec(&command, None, rows)?;
        let schema = snapshot.scan_schema(&spec).await?;

        let expires_at_ms = self.clock.now_ms().saturating_add(self.limits.ticket_ttl_ms);
        snapshot.lease(expires_at_ms);
        let total_records = total_records(&snapshot, &command).await?;
        let parts = split(&snapshot, &command)
            .into_iter()
            .map(|slices| ReadPart {
                database: ctx.database.to_string(),
                command: command.clone(),
                table_uid: snapshot.table().uid().to_owned(),
                branch: snapshot.branch().map(str::to_owned),
                version: snapshot.version(),
                slices,
                expires_at_ms,
            })
            .collect();
        Ok(ReadPlan {
            schema,
            version: snapshot.version(),
            total_records,
            total_bytes: total_bytes(&snapshot, &command),
            ordered: command.order != Some(Order::Any),
            parts,
            expires_at_ms,
        })
    }

    /// Opens one part and renews its lease.
    ///
    /// # Errors
    /// `NotFound` when the ticket expired or its table is gone.
    pub async fn read_part(
        &self,
        ctx: &RequestContext,
        part: ReadPart,
    ) -> Result<(SchemaRef, BatchStream)> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        let now_ms = self.clock.now_ms();
        check_database(ctx, &part)?;
        // A ticket was in the client's hands, so it may come back changed.
        self.check_read(&part.command)?;
        let until_ms = self.tickets.renew(&part, now_ms, self.limits.ticket_ttl_ms);
        let until_ms = until_ms.ok_or_else(|| expired(&part))?;
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(READ_BYTES).await?;

        let snapshot = self.snapshot_of_part(ctx, &part).await.map_err(|error| {
            error.context(format!("the ticket for table `{}`", part.command.table))
        })?;
        snapshot.lease(until_ms);
        let rows = fix_row_set(&snapshot, &mut part.command.row_set.clone()).await?;
        let spec = scan_spec(&part.command, part.slices.clone(), rows)?;
        let (schema, batches) = snapshot.scan(&spec).await?;
        let held = (guard, request, memory);
        let batches = batches.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok((schema, batches.boxed()))
    }

    /// The schema that the command would return.
    ///
    /// # Errors
    /// As [`Service::plan_read`].
    pub async fn read_schema(
        &self,
        ctx: &RequestContext,
        command: &ReadCommand,
    ) -> Result<SchemaRef> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        self.check_read(command)?;
        let snapshot = self.snapshot(ctx, command).await?;
        let rows = fix_row_set(&snapshot, &mut command.row_set.clone()).await?;
        snapshot.scan_schema(&scan_spec(command, None, rows)?).await
    }

    /// The rows that the command would return, and the version they were counted in. Columns, limit and
    /// offset are not looked at.
    ///
    /// # Errors
    /// As [`Service::plan_read`].
    pub async fn count_rows(
        &self,
        ctx: &RequestContext,
        command: ReadCommand,
    ) -> Result<(u64, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        self.check_read(&command)?;
        let _request = self.admission.admit_request().await?;
        let snapshot = self.snapshot(ctx, &command).await?;
        let rows = fix_row_set(&snapshot, &mut command.row_set.clone()).await?;
        let counted = snapshot.count_of(command.filter.as_deref(), rows.as_deref()).await;
        Ok((counted.map_err(about_column)?, snapshot.version()))
    }

    /// By uid: the table may have another name by now, or none and be kept for this ticket.
    async fn snapshot_of_part(&self, ctx: &RequestContext, part: &ReadPart) -> Result<Snapshot> {
        let table = self.lake.table_by_uid(&ctx.database, &part.table_uid).await?;
        table.snapshot(part.branch.as_deref(), &At::Version(part.version)).await
    }

    pub(crate) fn check_read(&self, command: &ReadCommand) -> Result<()> {
        let sql_bytes_max = self.limits.sql_bytes_max;
        if command.filter.as_ref().is_some_and(|sql| sql.len() > sql_bytes_max) {
            return Err(Error::invalid(format!(
                "the filter has more than sql_bytes_max = {sql_bytes_max} bytes"
            )));
        }
        if command.filter.as_ref().is_some_and(|sql| sql.trim().is_empty()) {
            return Err(Error::invalid("the filter is empty"));
        }
        match &command.columns {
            Some(Columns::Names(names)) if names.is_empty() => {
                return Err(Error::invalid("`columns` is empty; leave it out for all columns"));
            }
            Some(Columns::Expressions(pairs)) => {
                if pairs.is_empty() {
                    return Err(Error::invalid("`columns` is empty; leave it out for all columns"));
                }
                let bytes: usize = pairs.iter().map(|(_, sql)| sql.len()).sum();
                if bytes > sql_bytes_max {
                    return Err(Error::invalid(format!(
                        "the expressions have more than sql_bytes_max = {sql_bytes_max} bytes"
                    )));
                }
            }
            _ => {}
        }
        let row_ids_max = self.limits.row_ids_max;
        if command.row_ids.as_ref().is_some_and(|ids| ids.len() > row_ids_max) {
            return Err(Error::invalid(format!(
                "`row_ids` has more than row_ids_max = {row_ids_max} ids"
            )));
        }
        if command.row_ids.is_some()
            && (command.filter.is_some()
                || command.row_set.is_some()
                || command.limit.is_some()
                || command.offset.is_some())
        {
            return Err(Error::invalid(
                "`row_ids` cannot be combined with `filter`, `row_set`, `limit` or `offset`",
            ));
        }
        Ok(())
    }
}

/// What a filter names and is not there is a column.
fn about_column(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.about(Subject::Column),
        _ => error,
    }
}

fn check_database(ctx: &RequestContext, part: &ReadPart) -> Result<()> {
    if part.database == ctx.database.as_str() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the ticket is for database `{}`, not `{}`",
        part.database, ctx.database
    )))
}

fn expired(part: &ReadPart) -> Error {
    Error::not_found(format!(
        "the ticket for version {} of `{}` expired; ask for the flight info again",
        part.version, part.command.table
    ))
}

fn scan_spec(
    command: &ReadCommand,
    slices: Option<Vec<Slice>>,
    rows: Option<Arc<RowMask>>,
) -> Result<ScanSpec> {
    let projection = match &command.columns {
        None => Projection::All,
        Some(Columns::Names(names)) => Projection::Names(names.clone()),
        Some(Columns::Expressions(pairs)) => Projection::Expressions(pairs.clone()),
    };
    Ok(ScanSpec {
        projection,
        filter: command.filter.clone(),
        rows,
        limit: command.limit,
        offset: command.offset,
        row_ids: command.row_ids.clone(),
        slices,
        unordered: command.order == Some(Order::Any),
        blob_bytes: command.blobs == Some(BlobMode::Bytes),
    })
}

fn is_whole(command: &ReadCommand) -> bool {
    command.row_ids.is_none() && command.limit.is_none() && command.offset.is_none()
}

async fn total_records(snapshot: &Snapshot, command: &ReadCommand) -> Result<Option<u64>> {
    if let Some(row_ids) = &command.row_ids {
        return Ok(Some(row_ids.len() as u64));
    }
    if command.filter.is_some() || command.row_set.is_some() {
        return Ok(None);
    }
    let rows = snapshot.count_rows().await?;
    let rows = rows.saturating_sub(command.offset.unwrap_or(0));
    Ok(Some(command.limit.map_or(rows, |limit| rows.min(limit))))
}

fn total_bytes(snapshot: &Snapshot, command: &ReadCommand) -> Option<u64> {
    let is_filtered = command.filter.is_some() || command.row_set.is_some();
    let reads_all = is_whole(command) && !is_filtered && command.columns.is_none();
    snapshot.data_bytes().filter(|_| reads_all)
}

/// The slices of each part; one part without slices where the answer cannot be cut.
fn split(snapshot: &Snapshot, command: &ReadCommand) -> Vec<Option<Vec<Slice>>> {
    if !is_whole(command) {
        return vec![None];
    }
    let parts_max = match snapshot.data_bytes() {
        Some(bytes) => (bytes / PART_BYTES_MIN)
            .min(FEW_PARTS)
            .max(bytes / MANY_PARTS_BYTES_MIN)
            .clamp(1, PARTS_MAX),
        None => PARTS_MAX,
    };
    let parts = snapshot.split(usize::try_from(parts_max).unwrap_or(1), PART_ROWS_MIN);
    if parts.len() <= 1 {
        return vec![None];
    }
    parts.into_iter().map(Some).collect()
}
