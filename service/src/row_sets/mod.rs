//! Row sets: named sets of a table's rows, that reads, searches and jobs take as a filter.
//!
//! Reading one, or reading with one, needs what reading the table does; making and dropping one needs the
//! right to write, as for tags.

mod create;
mod source;

use std::sync::Arc;

use lakebed_core::{RequestContext, Result, Role, RowSetRef, TableId};
use lakebed_storage::{RowMask, Snapshot};

pub use create::CreateRowSet;
pub use source::RowSetSource;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// The ids of a row set.
pub use lakebed_storage::RowMask as RowSetIds;
/// One version of a row set.
pub use lakebed_storage::RowSet;

impl Service {
    /// The row sets of a table, sorted by name: the newest version of each, or all of them.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn list_row_sets(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        all_versions: bool,
    ) -> Result<Vec<RowSet>> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        self.lake.table(table).await?.list_row_sets(all_versions).await
    }

    /// One version of a row set.
    ///
    /// # Errors
    /// `NotFound` naming table, row set or version.
    pub async fn describe_row_set(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        wanted: &RowSetRef,
    ) -> Result<RowSet> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        self.lake.table(table).await?.row_set(wanted).await
    }

    /// One version of a row set with its ids, those of rows among them that were deleted since.
    ///
    /// # Errors
    /// As [`Service::describe_row_set`].
    pub async fn row_set_ids(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        wanted: &RowSetRef,
    ) -> Result<(RowSet, Arc<RowSetIds>)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        let table = self.lake.table(table).await?;
        let set = table.row_set(wanted).await?;
        let ids = table.row_set_mask(&set).await?;
        Ok((set, ids))
    }

    /// Drops a version of a row set, or all of them; says how many it were. Rows stay as they are.
    ///
    /// # Errors
    /// `NotFound` naming table, row set or version.
    pub async fn drop_row_set(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        wanted: &RowSetRef,
    ) -> Result<usize> {
        const VERB: &str = "drop_row_set";
        self.permit(ctx, Role::Write, VERB, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.lake.table(table).await {
            Ok(handle) => handle.drop_row_set(wanted).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, VERB).outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(wanted.to_string());
        self.audit.record(line);
        outcome
    }
}

/// The rows of the set that a request names, which is named with its version from then on: a ticket finds the
/// same rows, whatever versions come after it.
pub(crate) async fn fix_row_set(
    snapshot: &Snapshot,
    row_set: &mut Option<String>,
) -> Result<Option<Arc<RowMask>>> {
    let Some(text) = row_set else { return Ok(None) };
    let mut wanted = RowSetRef::parse(text)?;
    let (set, rows) = snapshot.row_set(&wanted).await?;
    wanted.version = Some(set.version);
    *text = wanted.to_string();
    Ok(Some(rows))
}
