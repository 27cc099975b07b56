//! Columns that SQL keeps computed: declared like those of functions, refreshed by the server itself.

use std::collections::HashMap;

use lakebed_core::{RequestContext, Result, TableId};
use lakebed_jobs::AUTO_REFRESH_SECONDS;
use lakebed_storage::At;
use serde_json::json;

use crate::Service;
use crate::columns::shown;

/// The type of the job that refreshes one.
const REFRESH_COLUMN: &str = "refresh_computed_column";

impl Service {
    /// Adds a column for each `(name, SQL expression)`, null in every row until it is refreshed; returns the
    /// version with them. With `refresh_every` they refresh themselves, with so many seconds between two jobs
    /// at least.
    ///
    /// # Errors
    /// `InvalidArgument` naming a column that exists or an expression that does not parse; `NotFound` naming
    /// table or branch.
    pub async fn add_computed_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        columns: &[(String, String)],
        refresh_every: Option<u64>,
    ) -> Result<u64> {
        let subject = shown(columns.iter().map(|(name, _)| name.as_str()));
        let changed =
            self.change_columns(ctx, "add_columns", table, branch, subject, |handle| async move {
                let mut notes = HashMap::new();
                if let Some(every) = refresh_every {
                    self.note_refreshing(&handle, &ctx.database, branch).await?;
                    notes.insert(AUTO_REFRESH_SECONDS.to_owned(), every.to_string());
                }
                Ok(((), handle.add_computed_columns(branch, columns, &notes).await?))
            });
        Ok(changed.await?.1)
    }

    /// Begins to refresh a column that SQL computes; returns the id of the job.
    pub(super) async fn refresh_sql_column(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        column: &str,
    ) -> Result<String> {
        let handle = self.fresh_table(ctx, table, branch).await?;
        let source = handle.snapshot(branch, &At::Latest).await?.version();
        let spec = json!({ "column": column, "branch": branch });
        let (branch, column) = (branch.map(str::to_owned), column.to_owned());
        let lake = std::sync::Arc::clone(&self.lake);
        let work = async move {
            let handle = lake.insist(&handle).await?;
            let (rows, version) =
                handle.refresh_computed_column(branch.as_deref(), &column).await?;
            let mut result = json!({
                "rows_assigned": rows,
                "rows_failed": 0,
                "rows_remaining": 0,
                "source_version": source,
            });
            if rows > 0 {
                result["published_version"] = version.into();
            }
            Ok(result)
        };
        self.jobs.begin(ctx, REFRESH_COLUMN, table.text(), spec, work).await
    }
}
