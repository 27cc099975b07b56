//! This server among those of its lake.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role};
use lakebed_storage::{Leader, ServerAddresses, Servers, Table};
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::authenticate::require;
use crate::forward::JOBS;

/// The lease of what is maintained for the whole lake.
const MAINTENANCE: &str = "maintenance";
/// What leaving gets when the store does not answer.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Ends the beats of a server.
pub(crate) type Beats = CancellationToken;

impl Service {
    /// Joins the servers of a lake in a bucket; the others reach this one at the base URLs of its ports.
    /// From here on it says that it is there until it shuts down, and runs the lake's jobs while it has
    /// their lease.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn join_servers(self: &Arc<Self>, http: String, flight: String) -> Result<()> {
        self.lake.join_servers(http, flight).await?;
        let Some(servers) = self.lake.servers().map(Arc::clone) else { return Ok(()) };
        self.jobs.join(servers.me().id.clone());
        let service = Arc::downgrade(self);
        self.lake.ask_by(Box::new(move |leader, uid| ask(service.clone(), leader, uid).boxed()));
        tokio::spawn(beat(Arc::clone(&servers), self.beats.clone()));
        tokio::spawn(run_jobs(Arc::downgrade(self), servers, self.beats.clone()));
        Ok(())
    }

    /// The servers of the lake that are there, this one first.
    ///
    /// # Errors
    /// `Denied` without the role.
    pub fn list_servers(&self, ctx: &RequestContext) -> Result<Vec<ServerAddresses>> {
        require(ctx, Role::Read)?;
        let Some(servers) = self.lake.servers() else { return Ok(Vec::new()) };
        let mut listed = vec![servers.me().clone()];
        listed.extend(servers.others());
        Ok(listed)
    }

    /// Says that this server is gone, so that the others need not wait. The last thing that it does with
    /// the lake.
    pub(crate) async fn leave_servers(&self) {
        self.beats.cancel();
        let Some(servers) = self.lake.servers() else { return };
        match tokio::time::timeout(LEAVE_MAX, servers.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(error = %error.report(), "the record stays behind"),
            Err(_) => tracing::info!("the record of this server stays behind"),
        }
    }

    /// Whether what concerns the whole lake is maintained by this server.
    pub(crate) async fn leads_maintenance(&self) -> bool {
        self.leads(MAINTENANCE).await
    }

    /// Whether a table is maintained by this server, which leads it then.
    pub(crate) async fn maintains(&self, table: &Table) -> bool {
        self.leads(table.uid()).await
    }

    async fn leads(&self, subject: &str) -> bool {
        let Some(servers) = self.lake.servers() else { return true };
        match servers.lead(subject).await {
            Ok(leader) => matches!(leader, Leader::Here { .. }),
            Err(error) => {
                tracing::info!(error = %error.report(), "it is not known who maintains");
                false
            }
        }
    }

    async fn begin_jobs(&self, servers: &Servers) -> Result<()> {
        self.jobs.refresh(true, |id| servers.is_there(id)).await?;
        self.column_jobs.begin().await
    }

    /// Reads the records of jobs that run in other servers.
    pub(crate) async fn refresh_jobs(&self) -> Result<()> {
        match self.lake.servers() {
            None => Ok(()),
            Some(servers) => self.jobs.refresh(false, |id| servers.is_there(id)).await,
        }
    }
}

async fn ask(service: Weak<Service>, leader: ServerAddresses, uid: String) -> Result<()> {
    let stopping = || Error::new(ErrorKind::Unavailable, "the server is shutting down");
    service.upgrade().ok_or_else(stopping)?.ask_for_lead(&leader, &uid).await
}

async fn beat(servers: Arc<Servers>, stop: CancellationToken) {
    let interval = servers.interval();
    let mut beats = tokio::time::interval(interval);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(beats.tick()).await.is_some() {
        // A store that hangs must not keep the next beat from being tried.
        let beat = tokio::time::timeout(interval * 4, servers.beat()).await;
        let failed = match beat {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.report(),
            Err(_) => "the store does not answer".to_owned(),
        };
        metrics::counter!("lakebed_server_beats_failed_total").increment(1);
        tracing::info!(error = failed, "the other servers do not hear from this one");
    }
}

/// Runs the jobs while this server has their lease.
async fn run_jobs(service: Weak<Service>, servers: Arc<Servers>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(servers.interval());
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let Some(service) = service.upgrade() else { return };
        let is_running = service.column_jobs.is_running();
        let failed = match servers.lead(JOBS).await {
            Ok(Leader::Here { .. }) if is_running => continue,
            Ok(Leader::Here { .. }) => service.begin_jobs(&servers).await.err(),
            Ok(Leader::There(_)) => {
                if is_running {
                    service.column_jobs.stand_down();
                }
                continue;
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            tracing::info!(error = %error.report(), "jobs are not taken up yet");
        }
    }
}
