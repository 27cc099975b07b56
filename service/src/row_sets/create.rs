//! Making a row set: of a condition, a search, a statement in SQL, ids, or other sets.

use std::sync::Arc;

use lakebed_core::{RequestContext, Result, Role, RowSetName, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::{NewRowSet, RowSet};

use super::source::RowSetSource;
use crate::Service;
use crate::audit::AuditLine;

/// A row set that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateRowSet {
    /// Its name; where there is one of that name, the set becomes its next version.
    pub name: RowSetName,
    /// What it is for.
    pub description: Option<String>,
    /// The branch; main when absent.
    pub branch: Option<String>,
    /// The version of the table; the newest when absent.
    pub version: Option<u64>,
    /// Which rows.
    pub source: RowSetSource,
}

impl Service {
    /// Makes the next version of a row set.
    ///
    /// # Errors
    /// `NotFound` naming table, version, column or row set, or a row id that is asked for; `InvalidArgument`
    /// for a source that does not parse and for sets that pass their limits.
    pub async fn create_row_set(
        self: &Arc<Self>,
        ctx: &RequestContext,
        table: &TableId,
        command: CreateRowSet,
    ) -> Result<RowSet> {
        const VERB: &str = "create_row_set";
        self.permit(ctx, Role::Write, VERB, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let name = command.name.clone();
        let outcome = self.make_row_set(ctx, table, command).await;
        let mut line = AuditLine::new(ctx, VERB).outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(match &outcome {
            Ok(set) => format!("{name}@{}", set.version),
            Err(_) => name.to_string(),
        });
        line.rows = outcome.as_ref().ok().map(|set| set.rows);
        self.audit.record(line);
        outcome
    }

    async fn make_row_set(
        self: &Arc<Self>,
        ctx: &RequestContext,
        table: &TableId,
        command: CreateRowSet,
    ) -> Result<RowSet> {
        let CreateRowSet { name, description, branch, version, source } = command;
        let at = ReadCommand { table: table.text(), branch, version, ..ReadCommand::default() };
        let snapshot = self.snapshot_of(ctx, table, &at).await?;
        let (ids, made_from) = self.rows_of_source(ctx, &snapshot, table, source).await?;
        let new = NewRowSet { name, description, made_from, ids };
        snapshot.table().create_row_set(&snapshot, new).await
    }
}
