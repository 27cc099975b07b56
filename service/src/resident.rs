//! Resident indexes: asking for one, seeing them, dropping one.
//!
//! They are this server's own: another server of the lake has its own, or none.

use lakebed_core::{DistanceType, RequestContext, Result, Role, TableId};
use lakebed_index::resident::ResidentStatus;
use lakebed_proto::command::ReadCommand;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

impl Service {
    /// Begins to build the resident index of a column of a branch, and keeps it from now on. It measures as
    /// the table's own index of the column does where nothing else is asked for.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or column; `InvalidArgument` for a column that can have none, or for
    /// one that would take more memory than there is for all; `AlreadyExists` for another distance.
    pub async fn create_resident_index(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<String>,
        column: &str,
        distance: Option<DistanceType>,
    ) -> Result<()> {
        self.permit(ctx, Role::Write, "create_resident_index", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let at = ReadCommand { branch, ..ReadCommand::default() };
        let outcome = match self.snapshot_of(ctx, table, &at).await {
            Ok(snapshot) => self.residents.create(snapshot, column, distance).await,
            Err(error) => Err(error),
        };
        self.note_resident(ctx, "create_resident_index", table, column, &outcome);
        outcome
    }

    /// Drops the resident index of a column of a branch.
    ///
    /// # Errors
    /// `NotFound` naming table or branch, or when the column has none.
    pub async fn drop_resident_index(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<String>,
        column: &str,
    ) -> Result<()> {
        self.permit(ctx, Role::Write, "drop_resident_index", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let at = ReadCommand { branch, ..ReadCommand::default() };
        let outcome = match self.snapshot_of(ctx, table, &at).await {
            Ok(snapshot) => self.residents.remove(&snapshot, column),
            Err(error) => Err(error),
        };
        self.note_resident(ctx, "drop_resident_index", table, column, &outcome);
        outcome
    }

    /// The resident indexes of a table on this server.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn list_resident_indexes(
        &self,
        ctx: &RequestContext,
        table: &TableId,
    ) -> Result<Vec<ResidentStatus>> {
        require(ctx, Role::Read)?;
        let handle = self.lake.table(table).await?;
        Ok(self.residents.list(handle.uid()))
    }

    fn note_resident(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        column: &str,
        outcome: &Result<()>,
    ) {
        let mut line = AuditLine::new(ctx, verb).outcome(outcome);
        line.table = Some(table.to_string());
        line.subject = Some(column.to_owned());
        self.audit.record(line);
    }
}
