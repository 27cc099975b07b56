//! Set columns of the rows that a predicate selects.
use lakebed_core::{Error, RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;

impl Service {
    /// Sets each `(column, SQL expression)` in the rows for which `predicate` is true, or in all rows;
    /// returns how many, and the version with them.
    ///
    /// # Errors
    /// `InvalidArgument` for SQL that does not parse or a value that does not fit, naming the column;
    /// `NotFound` naming table, branch or column.
    pub async fn update_rows(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        predicate: Option<&str>,
        updates: &[(String, String)],
    ) -> Result<(u64, u64)> {
        self.permit(ctx, Role::Write, "update", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        self.check_update(predicate, updates)?;
        let _request = self.admission.admit_request().await?;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => handle.update_rows(branch, predicate, updates).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "update").outcome(&outcome);
        line.table = Some(table.to_string());
        if let Ok((rows, version)) = &outcome {
            line.rows = Some(*rows);
            line.version = Some(*version);
        }
        self.audit.record(line);
        outcome
    }

    fn check_update(&self, predicate: Option<&str>, updates: &[(String, String)]) -> Result<()> {
        let bytes_max = self.limits.sql_bytes_max;
        if predicate.is_some_and(|sql| sql.trim().is_empty() || sql.len() > bytes_max) {
            return Err(Error::invalid(format!(
                "the predicate must have 1 to sql_bytes_max = {bytes_max} bytes"
            )));
        }
        if updates.is_empty() {
            return Err(Error::invalid("an update needs at least one column"));
        }
        self.check_expressions(updates)
    }

    /// Checks the sizes of `(name, SQL expression)` pairs.
    pub(crate) fn check_expressions(&self, pairs: &[(String, String)]) -> Result<()> {
        let bytes_max = self.limits.sql_bytes_max;
        if let Some((name, _)) = pairs.iter().find(|(_, sql)| sql.trim().is_empty()) {
            return Err(Error::invalid(format!("the expression of column `{name}` is empty")));
        }
        match pairs.iter().map(|(_, sql)| sql.len()).sum::<usize>() > bytes_max {
            true => Err(Error::invalid(format!(
                "the expressions have more than sql_bytes_max = {bytes_max} bytes"
            ))),
            false => Ok(()),
        }
    }
}
