//! Indexes: listing, building in the background, dropping, warming up.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lakebed_core::{Error, RequestContext, Result, Role, TableId};
use lakebed_jobs::JobState;
use lakebed_proto::command::ReadCommand;
use lakebed_storage::{IndexSpec, IndexSummary};
use serde_json::json;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

/// An index to be built.
#[derive(Debug, Clone)]
pub struct CreateIndex {
    /// The branch; main when absent.
    pub branch: Option<String>,
    /// The column, by its whole path.
    pub column: String,
    /// The index's name; the column's with `_idx` when absent.
    pub name: Option<String>,
    /// Whether an index of that name is replaced.
    pub replace: bool,
    /// How it is built.
    pub spec: IndexSpec,
    /// What was asked for, for whoever looks at the job.
    pub asked: serde_json::Value,
}

impl Service {
    /// Builds an index; returns the id of the job that does it. What can be refused is refused at once; a
    /// build that is done or has failed within `index_wait_ms` is waited for, and goes on in the background
    /// otherwise.
    ///
    /// # Errors
    /// `NotFound` naming table or column, `InvalidArgument` for what does not fit, `AlreadyExists` for a
    /// name that is taken and not to be replaced; those of the build, where it was waited for.
    pub async fn create_index(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        command: CreateIndex,
    ) -> Result<String> {
        self.permit(ctx, Role::Write, "create_index", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = self.begin_index(ctx, table, command.clone()).await;
        let mut line = AuditLine::new(ctx, "create_index").outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(command.column);
        self.audit.record(line);
        outcome
    }

    async fn begin_index(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        command: CreateIndex,
    ) -> Result<String> {
        let CreateIndex { branch, column, name, replace, spec, asked } = command;
        let handle = self.fresh_table(ctx, table, branch.as_deref()).await?;
        let name = name.unwrap_or_else(|| lakebed_index::index_name(&column));
        handle.check_index(branch.as_deref(), &column, &name, replace, &spec).await?;
        let failed = Arc::new(OnceLock::new());
        let fails = Arc::clone(&failed);
        let work = async move {
            let built = handle.build_index(branch.as_deref(), &column, &name, replace, &spec).await;
            let version = built.inspect_err(|error| {
                let _ = fails.set((error.kind(), error.message().to_owned()));
            })?;
            Ok(json!({ "index_name": name, "version": version }))
        };
        let job_id = self.jobs.begin(ctx, "create_index", table.text(), asked, work).await?;
        let wait = Duration::from_millis(self.limits.index_wait_ms);
        match (self.jobs.ended(&job_id, wait).await, failed.get()) {
            (Some(job), Some((kind, message))) if job.state == JobState::Failed => {
                Err(Error::new(*kind, message))
            }
            _ => Ok(job_id),
        }
    }

    /// The indexes of a version, sorted by name, and the version.
    ///
    /// # Errors
    /// `NotFound` naming table, version or branch.
    pub async fn list_indexes(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        at: &ReadCommand,
    ) -> Result<(Vec<IndexSummary>, u64)> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let snapshot = self.snapshot_of(ctx, table, at).await?;
        let mut indexes = snapshot.indexes().await?;
        for index in indexes.iter_mut().filter(|index| index.is_over_words()) {
            let params = snapshot.text_index_params(&index.name).await?;
            index.details = serde_json::Value::Object(params).to_string();
        }
        Ok((indexes, snapshot.version()))
    }

    /// Drops an index; returns the version without it.
    ///
    /// # Errors
    /// `NotFound` naming table, branch or index.
    pub async fn drop_index(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        name: &str,
    ) -> Result<u64> {
        self.permit(ctx, Role::Write, "drop_index", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.fresh_table(ctx, table, branch).await {
            Ok(handle) => handle.drop_index(branch, name).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "drop_index").outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(name.to_owned());
        line.version = outcome.as_ref().ok().copied();
        self.audit.record(line);
        outcome
    }

    /// Loads an index into the cache.
    ///
    /// # Errors
    /// `NotFound` naming table or index.
    pub async fn prewarm_index(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &str,
    ) -> Result<()> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        self.snapshot_of(ctx, table, &ReadCommand::default()).await?.prewarm_index(name).await
    }
}
