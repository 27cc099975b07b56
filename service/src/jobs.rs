//! Verbs on jobs of every type: listing, describing, calling off. The records are in `jobs/`.

use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role};
use lakebed_jobs::{Job, JobState};

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

    /// Calls a job off. One that has ended stays as it is.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `InvalidArgument` when it has ended.
    pub async fn cancel_job(&self, ctx: &RequestContext, job_id: &str) -> Result<()> {
        self.permit(ctx, Role::Write, "cancel_job", None)?;
        let outcome = self.jobs.get(ctx, job_id).and_then(|(job, cancel)| match job.state {
            JobState::InProgress | JobState::Paused | JobState::Cancelled => {
                cancel.cancel();
                Ok(job)
            }
            _ => Err(Error::new(ErrorKind::InvalidArgument, "the job has ended")),
        });
        let mut line = AuditLine::new(ctx, "cancel_job").outcome(&outcome);
        line.subject = Some(job_id.to_owned());
        line.table = outcome.as_ref().ok().map(|job| format!("{}/{}", job.database, job.table));
        self.audit.record(line);
        outcome.map(|_| ())
    }
}
