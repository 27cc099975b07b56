//! Alter columns.
use lakebed_core::{RequestContext, Result, TableId};
use lakebed_storage::ColumnAlteration;

use super::shown;
use crate::Service;

/// Memory for a few batches of old and new values.
const CAST_BYTES: usize = 16 << 20;

impl Service {
    /// Renames columns, allows or forbids null in them, or changes their types; returns the version.
    ///
    /// # Errors
    /// `InvalidArgument` naming the column that cannot be altered so; `NotFound` naming table, branch or
    /// column.
    pub async fn alter_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        alterations: &[ColumnAlteration],
    ) -> Result<u64> {
        let subject = shown(alterations.iter().map(|alteration| alteration.path.as_str()));
        let changed = self.change_columns(
            ctx,
            "alter_columns",
            table,
            branch,
            subject,
            |handle| async move {
                let _memory = self.admission.read_bytes(CAST_BYTES).await?;
                Ok(((), handle.alter_columns(branch, alterations).await?))
            },
        );
        Ok(changed.await?.1)
    }
}
