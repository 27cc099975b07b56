//! The change feed: what was inserted, updated and deleted between two versions.
//!
//! A plan fixes both versions and leases them, for as long as its ticket lives; so the same ticket gives
//! the same rows. A feed that is read for a cursor begins behind the cursor, and moves it nowhere: its
//! reader does that when it is done (`cursors.rs`).

use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{CursorName, Error, RequestContext, Result, Role, Subject, TableId};
use lakebed_proto::changes::{ChangesCommand, Kind, Point};
use lakebed_proto::command::BlobMode;
use lakebed_storage::{At, ChangeKind, ChangesSpec, Snapshot, json_shown};
use serde::{Deserialize, Serialize};

use crate::authenticate::require;
use crate::read::READ_BYTES;
use crate::{BatchStream, Service};

/// Two versions are read beside each other.
const CHANGES_BYTES: usize = 2 * READ_BYTES;

/// A planned feed.
#[derive(Debug, Clone)]
pub struct ChangesPlan {
    /// The schema of the rows.
    pub schema: SchemaRef,
    /// What opens it.
    pub part: ChangesPart,
}

/// A planned feed, to be opened; opaque to the doors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesPart {
    database: String,
    command: ChangesCommand,
    /// The incarnation of the table: a ticket never reads a later table of the same name.
    table_uid: String,
    /// Resolved: what `command` named when it was planned. `from` is 0 for the empty table.
    branch: Option<String>,
    from: u64,
    to: u64,
    expires_at_ms: i64,
}

impl ChangesPart {
    /// The version behind which the feed begins; 0 for the empty table.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The version up to which it goes: where a cursor is to be moved when the feed is done with.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// Until when it can be opened, unless use renews that.
    pub fn expires_at_ms(&self) -> i64 {
        self.expires_at_ms
    }

    fn ticket_key(&self) -> String {
        format!(
            "changes/{}/{:?}/{}/{}/{}",
            self.table_uid, self.branch, self.from, self.to, self.expires_at_ms
        )
    }
}

/// An open feed.
pub struct Changes {
    /// The schema of the batches.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BatchStream,
    /// The version behind which it begins.
    pub from: u64,
    /// The version up to which it goes.
    pub to: u64,
}

/// The two versions of a feed.
struct Ends {
    begin: Option<Snapshot>,
    end: Snapshot,
}

impl Ends {
    fn from(&self) -> u64 {
        self.begin.as_ref().map_or(0, Snapshot::version)
    }
}

impl Service {
    /// Plans a feed: fixes both versions and keeps them for as long as a ticket lives.
    ///
    /// # Errors
    /// `NotFound` naming table, version, tag, branch, column or cursor; `InvalidArgument` for versions in
    /// the wrong order or fields that contradict each other.
    pub async fn plan_changes(
        &self,
        ctx: &RequestContext,
        command: ChangesCommand,
    ) -> Result<ChangesPlan> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let spec = self.changes_spec(&command)?;
        let ends = self.ends(ctx, &command).await?;
        let schema = ends.end.changes_schema(ends.begin.as_ref(), &spec).await?;
        let (schema, _) = json_shown(schema, futures::stream::empty().boxed())?;
        let expires_at_ms = self.clock.now_ms().saturating_add(self.limits.ticket_ttl_ms);
        for snapshot in ends.begin.iter().chain([&ends.end]) {
            snapshot.lease(expires_at_ms);
        }
        let part = ChangesPart {
            database: ctx.database.to_string(),
            table_uid: ends.end.table().uid().to_owned(),
            branch: ends.end.branch().map(str::to_owned),
            from: ends.from(),
            to: ends.end.version(),
            command,
            expires_at_ms,
        };
        Ok(ChangesPlan { schema, part })
    }

    /// Opens a planned feed and renews its leases.
    ///
    /// # Errors
    /// `NotFound` when the ticket expired or its table is gone.
    pub async fn read_changes(
        &self,
        ctx: &RequestContext,
        part: &ChangesPart,
    ) -> Result<(SchemaRef, BatchStream)> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        // A ticket was in the client's hands, so it may come back changed.
        let spec = self.changes_spec(&part.command)?;
        if part.database != ctx.database.as_str() {
            return Err(Error::invalid(format!(
                "the ticket is for database `{}`, not `{}`",
                part.database, ctx.database
            )));
        }
        let (now_ms, ttl_ms) = (self.clock.now_ms(), self.limits.ticket_ttl_ms);
        let until_ms =
            self.tickets.renew_key(part.ticket_key(), part.expires_at_ms, now_ms, ttl_ms);
        let until_ms = until_ms.ok_or_else(|| {
            Error::not_found(format!(
                "the ticket for changes of `{}` up to version {} expired; ask for the flight info again",
                part.command.table, part.to
            ))
        })?;
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(CHANGES_BYTES).await?;
        let table = self.lake.table_by_uid(&ctx.database, &part.table_uid).await?;
        let branch = part.branch.as_deref();
        let end = table.snapshot(branch, &At::Version(part.to)).await?;
        let begin = match part.from {
            0 => None,
            from => Some(table.snapshot(branch, &At::Version(from)).await?),
        };
        for snapshot in begin.iter().chain([&end]) {
            snapshot.lease(until_ms);
        }
        let (schema, batches) = end.changes(begin.as_ref(), &spec).await?;
        let (schema, batches) = json_shown(schema, batches)?;
        let held = (guard, request, memory);
        let batches = batches.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok((schema, batches.boxed()))
    }

    /// Opens a feed at once.
    ///
    /// # Errors
    /// As [`Service::plan_changes`].
    pub async fn changes(&self, ctx: &RequestContext, command: &ChangesCommand) -> Result<Changes> {
        require(ctx, Role::Read)?;
        let guard = self.gate.enter()?;
        let spec = self.changes_spec(command)?;
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(CHANGES_BYTES).await?;
        let ends = self.ends(ctx, command).await?;
        let (schema, batches) = ends.end.changes(ends.begin.as_ref(), &spec).await?;
        let (schema, batches) = json_shown(schema, batches)?;
        let held = (guard, request, memory);
        let batches = batches.inspect(move |_| {
            let _ = &held;
        });
        let (from, to) = (ends.from(), ends.end.version());
        Ok(Changes { schema, batches: batches.boxed(), from, to })
    }

    /// Pins the two versions that a command names.
    async fn ends(&self, ctx: &RequestContext, command: &ChangesCommand) -> Result<Ends> {
        let id = TableId::parse(&ctx.database, &command.table)?;
        let table = self.fresh_table(ctx, &id, command.branch.as_deref()).await?;
        let of_table = |error: Error| error.context(format!("table `{}`", id.text()));
        let mut branch = command.branch.clone();
        let from = match (&command.from, &command.cursor) {
            (Some(from), None) => at_of(from),
            (None, Some(cursor)) => {
                let cursor = table.cursor(&CursorName::parse(cursor)?).await.map_err(of_table)?;
                let of_cursor = cursor.branch.as_deref().unwrap_or("main");
                if let Some(asked) = branch.as_deref().filter(|asked| *asked != of_cursor) {
                    return Err(Error::invalid(format!(
                        "cursor `{}` follows branch `{of_cursor}`, not `{asked}`",
                        cursor.name
                    )));
                }
                branch = cursor.branch;
                At::Version(cursor.version)
            }
            (None, None) => {
                return Err(Error::invalid(
                    "neither `from` nor `cursor` is given; `\"from\": 0` begins with the whole table",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Error::invalid("only one of `from` and `cursor` may be given"));
            }
        };
        let begin = match from {
            At::Version(0) => None,
            from => {
                let begin = table.snapshot(branch.as_deref(), &from).await.map_err(of_table)?;
                // A tag knows its branch.
                branch = begin.branch().map(str::to_owned);
                Some(begin)
            }
        };
        let to = command.to.as_ref().map_or(At::Latest, at_of);
        if to == At::Version(0) {
            return Err(Error::not_found("version 0 does not exist; the first is 1")
                .about(Subject::Version));
        }
        let end = table.snapshot(branch.as_deref(), &to).await.map_err(of_table)?;
        Ok(Ends { begin, end })
    }

    fn changes_spec(&self, command: &ChangesCommand) -> Result<ChangesSpec> {
        let columns_max = self.limits.columns_max;
        match &command.columns {
            Some(names) if names.is_empty() => {
                return Err(Error::invalid("`columns` is empty; leave it out for all columns"));
            }
            Some(names) if names.len() > columns_max => {
                return Err(Error::invalid(format!(
                    "`columns` has more than columns_max = {columns_max} names"
                )));
            }
            _ => {}
        }
        if command.kinds.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("`kinds` is empty; leave it out for all kinds"));
        }
        let kind = |kind: &Kind| match kind {
            Kind::Insert => ChangeKind::Insert,
            Kind::Update => ChangeKind::Update,
            Kind::Delete => ChangeKind::Delete,
        };
        Ok(ChangesSpec {
            columns: command.columns.clone(),
            kinds: command.kinds.as_ref().map(|kinds| kinds.iter().map(kind).collect()),
            blob_bytes: command.blobs == Some(BlobMode::Bytes),
            cursor: command.cursor.clone(),
        })
    }
}

fn at_of(point: &Point) -> At {
    match point {
        Point::Version(version) => At::Version(*version),
        Point::Tag(tag) => At::Tag(tag.clone()),
        Point::Time(time) => At::AsOf(*time),
    }
}
