//! Cursors: how far the readers of a table's changes have come.

use std::sync::Arc;

use lakebed_core::{CursorName, RequestContext, Result, Role, TableId};
use lakebed_storage::Table;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// A cursor of a table.
pub use lakebed_storage::Cursor;

impl Service {
    /// Makes a cursor at a version of a branch, at the newest one without; 0 is before the first.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `NotFound` naming table, branch or version.
    pub async fn create_cursor(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &CursorName,
        branch: Option<&str>,
        version: Option<u64>,
    ) -> Result<Cursor> {
        self.change_cursor(ctx, "create_cursor", table, name, async |handle| {
            handle.create_cursor(name, branch, version).await
        })
        .await
    }

    /// Moves a cursor forward; with `expected` only from there.
    ///
    /// # Errors
    /// `NotFound` naming table, cursor or version; `Conflict` when the cursor does not stand where it is
    /// expected.
    pub async fn advance_cursor(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &CursorName,
        version: u64,
        expected: Option<u64>,
    ) -> Result<Cursor> {
        self.change_cursor(ctx, "advance_cursor", table, name, async |handle| {
            handle.advance_cursor(name, version, expected).await
        })
        .await
    }

    /// Deletes a cursor; what it stood at comes back.
    ///
    /// # Errors
    /// `NotFound` naming table or cursor.
    pub async fn delete_cursor(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &CursorName,
    ) -> Result<Cursor> {
        self.change_cursor(ctx, "delete_cursor", table, name, async |handle| {
            handle.delete_cursor(name).await
        })
        .await
    }

    /// The cursors of a table, sorted by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn list_cursors(&self, ctx: &RequestContext, table: &TableId) -> Result<Vec<Cursor>> {
        require(ctx, Role::Read)?;
        self.lake.table(table).await?.list_cursors().await
    }

    /// What the changes of a cursor have in common.
    async fn change_cursor(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        name: &CursorName,
        change: impl AsyncFnOnce(&Arc<Table>) -> Result<Cursor>,
    ) -> Result<Cursor> {
        self.permit(ctx, Role::Write, verb, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.lake.table(table).await {
            Ok(handle) => change(&handle).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, verb).outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(name.to_string());
        line.version = outcome.as_ref().ok().map(|cursor| cursor.version);
        self.audit.record(line);
        outcome
    }
}
