//! Columns are read before somebody asks for them, so that their files lie in the caches.

use futures::TryStreamExt as _;
use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_proto::command::ReadCommand;
use lakebed_storage::{Projection, ScanSpec};
use serde_json::json;

use crate::Service;
use crate::authenticate::require;

impl Service {
    /// Begins to read columns of the newest version of a branch, all of them where none is named; returns
    /// the id of the job. Of blobs only the descriptors are read. What is read stays in the memory of the
    /// operating system, and of a lake in a bucket in the read cache, as far as these have room.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or column.
    pub async fn prewarm_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<String>,
        columns: Vec<String>,
    ) -> Result<String> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let at = ReadCommand { branch, ..ReadCommand::default() };
        let snapshot = self.snapshot_of(ctx, table, &at).await?;
        let asked = json!({ "columns": columns, "version": snapshot.version() });
        let projection = match columns.is_empty() {
            true => Projection::All,
            false => Projection::Names(columns),
        };
        let spec = ScanSpec { projection, unordered: true, ..ScanSpec::default() };
        // Before there is a job, so that a column that is not there is named at once.
        snapshot.scan_schema(&spec).await?;
        let work = async move {
            let (_, batches) = snapshot.scan(&spec).await?;
            let count =
                batches.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) });
            let rows = count.await?;
            Ok(json!({ "rows": rows }))
        };
        self.jobs.begin(ctx, "prewarm_columns", table.text(), asked, work).await
    }
}
