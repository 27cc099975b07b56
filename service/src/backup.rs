//! Back the lake up while it is being served: a job that runs beside requests, one at a time.

use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role, TableId};
use lakebed_jobs::{Job, JobState};
use lakebed_storage::{Backup, BackupCounts, BackupProgress, BackupSpec};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Service;
use crate::audit::AuditLine;

const JOB_TYPE: &str = "backup";

/// What to back up, and where.
#[derive(Debug, Clone)]
pub struct BackupCommand {
    /// A folder of the server's machine, or `s3://bucket/prefix`.
    pub to: String,
    /// The tables; the whole lake when empty.
    pub tables: Vec<TableId>,
    /// Whether what the lake has no more is deleted from the backup.
    pub prune: bool,
    /// Whether the audit log comes along.
    pub with_audit: bool,
    /// Only count.
    pub is_dry_run: bool,
}

/// The backup that runs, if one does.
#[derive(Debug, Default)]
pub(crate) struct RunningBackup(Mutex<Option<(String, Arc<BackupProgress>)>>);

impl RunningBackup {
    fn begin(&self, job_id: &str, progress: &Arc<BackupProgress>) -> Result<()> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, _)) = &*running {
            let message = format!("a backup is under way already, job `{other}`");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        *running = Some((job_id.to_owned(), Arc::clone(progress)));
        Ok(())
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn counts(&self, job_id: &str) -> Option<BackupCounts> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().filter(|(id, _)| id == job_id).map(|(_, progress)| progress.counts())
    }
}

impl Service {
    /// Begins a backup; returns the id of its job. It is written with the server's own rights and
    /// credentials, so only an admin may ask.
    ///
    /// # Errors
    /// `Denied` unless an admin asks, `Conflict` while another backup runs. What is wrong with the place
    /// or the tables is the job's failure.
    pub async fn backup(
        self: &Arc<Self>,
        ctx: &RequestContext,
        command: BackupCommand,
    ) -> Result<String> {
        self.permit(ctx, Role::Admin, JOB_TYPE, None)?;
        let guard = self.gate.enter()?;
        let job = self.backup_job(ctx, &command);
        let progress = Arc::new(BackupProgress::default());
        let begun = self.begin_backup(&job, &progress).await;
        if begun.is_err() {
            let mut line = AuditLine::new(ctx, JOB_TYPE).outcome(&begun);
            line.subject = Some(command.to.clone());
            self.audit.record(line);
        }
        let cancel = begun?;
        let (service, ctx, job_id) = (Arc::clone(self), ctx.clone(), job.job_id.clone());
        tokio::spawn(async move {
            // Shutdown waits until the job has noticed that it is called off.
            let _guard = guard;
            let outcome = service.copy(&command, &progress, &cancel).await;
            service.backup.end();
            let mut line = AuditLine::new(&ctx, JOB_TYPE);
            line.outcome = match &outcome {
                None => ErrorKind::Cancelled.name(),
                Some(Ok(_)) => line.outcome,
                Some(Err(error)) => error.kind().name(),
            };
            line.subject = Some(command.to.clone());
            line.bytes = Some(progress.counts().bytes_copied);
            service.audit.record(line);
            service.end_backup_job(&job.job_id, outcome).await;
        });
        Ok(job_id)
    }

    fn backup_job(&self, ctx: &RequestContext, command: &BackupCommand) -> Job {
        let tables: Vec<String> = command.tables.iter().map(TableId::to_string).collect();
        Job {
            job_id: uuid::Uuid::now_v7().to_string(),
            job_type: JOB_TYPE.to_owned(),
            database: ctx.database.to_string(),
            table: String::new(),
            state: JobState::InProgress,
            created_at_ms: self.clock.now_ms(),
            ended_at_ms: None,
            spec: json!({
                "to": command.to,
                "tables": tables,
                "prune": command.prune,
                "audit": command.with_audit,
                "dry_run": command.is_dry_run,
            }),
            result: None,
            failure: None,
            server: None,
        }
    }

    async fn begin_backup(
        &self,
        job: &Job,
        progress: &Arc<BackupProgress>,
    ) -> Result<CancellationToken> {
        self.backup.begin(&job.job_id, progress)?;
        let added = self.jobs.add(job.clone()).await;
        if added.is_err() {
            self.backup.end();
        }
        added
    }

    /// The copying itself; nothing when it was called off.
    async fn copy(
        &self,
        command: &BackupCommand,
        progress: &Arc<BackupProgress>,
        cancel: &CancellationToken,
    ) -> Option<Result<Backup>> {
        let spec = BackupSpec {
            tables: command.tables.clone(),
            prune: command.prune,
            with_audit: command.with_audit,
            is_dry_run: command.is_dry_run,
            ..BackupSpec::to(command.to.clone())
        };
        let (lake, progress) = (Arc::clone(&self.lake), Arc::clone(progress));
        // A task of its own: a panic of a library ends the job and nothing else.
        let work = tokio::spawn(async move { lake.backup(&spec, &progress).await });
        match cancel.run_until_cancelled(AbortOnDropHandle::new(work)).await? {
            Ok(outcome) => Some(outcome),
            Err(error) => Some(Err(Error::internal("the backup broke off").with_source(error))),
        }
    }

    async fn end_backup_job(&self, job_id: &str, outcome: Option<Result<Backup>>) {
        if self.jobs.is_stopping() {
            // The next start says that the server stopped before the job was done.
            return;
        }
        let now_ms = self.clock.now_ms();
        let changed = self.jobs.change(job_id, |job| {
            job.ended_at_ms = Some(now_ms);
            match outcome {
                None => job.state = JobState::Cancelled,
                Some(Ok(done)) => {
                    job.state = JobState::Done;
                    job.result = serde_json::to_value(done).ok();
                }
                Some(Err(error)) => {
                    tracing::info!(job_id, error = %error.report(), "a backup failed");
                    job.state = JobState::Failed;
                    job.failure = Some(error.message().to_owned());
                }
            }
        });
        if let Err(error) = changed.await {
            tracing::warn!(job_id, error = %error.report(), "a job's end was not stored");
        }
    }

    /// How far a backup is; nothing for one that does not run.
    pub fn backup_progress(&self, job_id: &str) -> Option<BackupCounts> {
        self.backup.counts(job_id)
    }
}
