//! Delete rows by a filter.
use lakebed_core::{Error, RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Deletes the rows for which `filter` is true; returns how many, and the version without them.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that is empty or does not parse, `NotFound` without table or branch.
    pub async fn delete_rows(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        filter: &str,
    ) -> Result<(u64, u64)> {
        self.permit(ctx, Role::Write, "delete", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        if filter.trim().is_empty() || filter.len() > self.limits.sql_bytes_max {
            return Err(Error::invalid(format!(
                "the filter must have 1 to sql_bytes_max = {} bytes",
                self.limits.sql_bytes_max
            )));
        }
        let _request = self.admission.admit_request().await?;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => handle.delete_rows(branch, filter).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "delete").outcome(&outcome);
        line.table = Some(table.to_string());
        if let Ok((rows, version)) = &outcome {
            line.rows = Some(*rows);
            line.version = Some(*version);
        }
        self.audit.record(line);
        outcome
    }
}
