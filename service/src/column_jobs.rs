//! Columns that attached workers compute: submitting jobs, and the calls of workers.

use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{RequestContext, Result, Role, TableId};
use lakebed_jobs::{AttemptId, Job, Progress, SubmitJob, WorkerView};
use lakebed_proto::worker::v1;

use crate::audit::AuditLine;
use crate::authenticate::require;
use crate::read::READ_BYTES;
use crate::{BatchStream, Service};

impl Service {
    /// Begins to compute a column; returns the job.
    ///
    /// # Errors
    /// `NotFound` naming table, column or model, `InvalidArgument` for columns that do not fit the
    /// model, `AlreadyExists` when another job writes the same column.
    pub async fn submit_job(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        command: SubmitJob,
    ) -> Result<Job> {
        self.permit(ctx, Role::Write, "submit_job", Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let column = command.output.clone();
        let outcome = match self.fresh_table(ctx, table, None).await {
            Ok(handle) => self.column_jobs.submit(ctx, &handle, table.text(), command).await,
            Err(error) => Err(error),
        };
        let mut line = AuditLine::new(ctx, "submit_job").outcome(&outcome);
        line.table = Some(table.to_string());
        line.subject = Some(column);
        self.audit.record(line);
        outcome
    }

    /// Gives out no more tasks of a job, or goes on with it.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `InvalidArgument` when it has ended or cannot be paused.
    pub async fn pause_job(
        &self,
        ctx: &RequestContext,
        job_id: &str,
        is_paused: bool,
    ) -> Result<()> {
        let verb = if is_paused { "pause_job" } else { "resume_job" };
        self.permit(ctx, Role::Write, verb, None)?;
        let outcome = self.column_jobs.set_paused(ctx, job_id, is_paused).await;
        let mut line = AuditLine::new(ctx, verb).outcome(&outcome);
        line.subject = Some(job_id.to_owned());
        self.audit.record(line);
        outcome
    }

    /// How far a job is; nothing for one that has ended or has no tasks.
    pub fn job_progress(&self, job: &Job) -> Option<Progress> {
        self.column_jobs.progress(&job.job_id)
    }

    /// The workers that were heard of lately.
    ///
    /// # Errors
    /// `Denied` without the role.
    pub fn list_workers(&self, ctx: &RequestContext) -> Result<Vec<WorkerView>> {
        require(ctx, Role::Read)?;
        Ok(self.column_jobs.list_workers())
    }

    /// Takes a worker's report and says what it shall do.
    ///
    /// # Errors
    /// `Denied` without the role, `InvalidArgument` for a report that breaks the protocol.
    pub async fn sync_worker(
        &self,
        ctx: &RequestContext,
        request: v1::SyncRequest,
    ) -> Result<v1::SyncResponse> {
        require(ctx, Role::Worker)?;
        let _guard = self.gate.enter()?;
        self.column_jobs.sync(request).await
    }

    /// The rows of tasks that a worker holds.
    ///
    /// # Errors
    /// `Conflict` when an attempt does not hold its task; those of reading.
    pub async fn read_tasks(
        &self,
        ctx: &RequestContext,
        attempts: &[AttemptId],
    ) -> Result<(SchemaRef, BatchStream)> {
        require(ctx, Role::Worker)?;
        let guard = self.gate.enter()?;
        if attempts.first().is_some_and(|attempt| self.column_jobs.is_evaluation(attempt)) {
            // Its rows are in memory, and the statement that waits for them holds a place: waiting for
            // another one here could be waiting for that statement.
            let (schema, batches) = self.column_jobs.read_tasks(attempts).await?;
            let batches = batches.inspect(move |_| {
                let _ = &guard;
            });
            return Ok((schema, batches.boxed()));
        }
        let request = self.admission.admit_request().await?;
        let memory = self.admission.read_bytes(READ_BYTES).await?;
        let (schema, batches) = self.column_jobs.read_tasks(attempts).await?;
        let held = (guard, request, memory);
        let batches = batches.inspect(move |_| {
            // Gate and admission are held for as long as the stream lives.
            let _ = &held;
        });
        Ok((schema, batches.boxed()))
    }

    /// Takes the results of a task; returns how many rows they are.
    ///
    /// # Errors
    /// `Conflict` when the attempt does not hold its task, `InvalidArgument` for results that do not
    /// fit it.
    pub async fn put_results(
        &self,
        ctx: &RequestContext,
        attempt: &AttemptId,
        batches: BatchStream,
    ) -> Result<u64> {
        require(ctx, Role::Worker)?;
        let _guard = self.gate.enter()?;
        let _request = match self.column_jobs.is_evaluation(attempt) {
            true => None,
            false => Some(self.admission.admit_request().await?),
        };
        self.column_jobs.put_results(attempt, batches).await
    }
}
