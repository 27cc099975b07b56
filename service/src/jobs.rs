//! Verbs on jobs of every type: listing, describing, calling off. The records are in `jobs/`.

use arrow_array::RecordBatch;
use lakebed_core::{RequestContext, Result, Role};
use lakebed_jobs::Job;
use lakebed_storage::matching_rows;

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

impl Service {
    /// The jobs of the database, newest first.
    ///
    /// # Errors
    /// `Denied` without the role.
    pub async fn list_jobs(&self, ctx: &RequestContext) -> Result<Vec<Job>> {
        require(ctx, Role::Read)?;
        self.refresh_jobs().await?;
        Ok(self.jobs.of_database(ctx.database.as_str()))
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub async fn describe_job(&self, ctx: &RequestContext, job_id: &str) -> Result<Job> {
        require(ctx, Role::Read)?;
        self.refresh_jobs().await?;
        Ok(self.jobs.get(ctx, job_id)?.0)
    }

    /// What happened to a job, oldest first: the events for which `filter` is true, at most `limit`.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `InvalidArgument` for a filter that does not parse.
    pub async fn job_events(
        &self,
        ctx: &RequestContext,
        job_id: &str,
        filter: Option<&str>,
        limit: Option<usize>,
    ) -> Result<RecordBatch> {
        let job = self.describe_job(ctx, job_id).await?;
        let mut events = self.jobs.events(&job).await?;
        if let Some(filter) = filter {
            let matching = matching_rows(&events, filter, &self.limits);
            events = matching.map_err(|error| error.context("filter"))?;
        }
        let rows = events.num_rows();
        Ok(events.slice(0, limit.unwrap_or(rows).min(rows)))
    }

    /// Calls a job off. One that has ended stays as it is, which is no error.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub async fn cancel_job(&self, ctx: &RequestContext, job_id: &str) -> Result<()> {
        self.permit(ctx, Role::Write, "cancel_job", None)?;
        let outcome = self.jobs.get(ctx, job_id).map(|(job, cancel)| {
            if !job.state.is_ended() {
                cancel.cancel();
            }
            job
        });
        let mut line = AuditLine::new(ctx, "cancel_job").outcome(&outcome);
        line.subject = Some(job_id.to_owned());
        line.table = outcome.as_ref().ok().map(|job| format!("{}/{}", job.database, job.table));
        self.audit.record(line);
        outcome.map(|_| ())
    }
}
