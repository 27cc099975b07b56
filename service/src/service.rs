//! The service: what every verb holds on to.
use std::path::PathBuf;
use std::sync::Arc;

use lakebed_core::{Clock, Limits, Result};
use lakebed_index::resident::{ResidentOptions, Residents};
use lakebed_jobs::{ColumnJobs, Jobs};
use lakebed_sql::{Sql, SqlOptions};
use lakebed_storage::Lake;

use crate::admission::Admission;
use crate::audit::AuditLog;
use crate::authenticate::KeyCache;
use crate::backup::RunningBackup;
use crate::catalogue::{Catalogue, Changes};
use crate::forward::PeerConnections;
use crate::functions::Calls;
use crate::gate::Gate;
use crate::peer_io::PeerTls;
use crate::secrets::KeyPlace;
use crate::servers::Beats;
use crate::sql::{Once, PreparedStatements, Running};
use crate::suggest::Dictionaries;
use crate::tickets::Tickets;

/// What the audit log gets to write itself out, whatever the deadline says.
const AUDIT_GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// What a service is made of.
pub struct ServiceOptions {
    /// The open lake.
    pub lake: Arc<Lake>,
    /// Its limits.
    pub limits: Limits,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Whether requests without a key are taken as an admin's.
    pub allow_anonymous: bool,
    /// How the certificates of other servers are checked; nothing without TLS.
    pub peer_tls: Option<PeerTls>,
    /// How much may be searched in memory.
    pub resident: ResidentSettings,
    /// Where the key of secrets lies, which is made when the first secret is.
    pub secrets_key_file: Option<PathBuf>,
}

/// How much may be searched in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidentSettings {
    /// Bytes that all resident indexes may take; 0 for none.
    pub memory_bytes_max: u64,
    /// Where they are kept for a restart; below the lake where it is local, else in a folder that does not
    /// outlive the server.
    pub folder: Option<PathBuf>,
    /// Searches of a column within ten minutes that give it one; 0 if none do.
    pub hot_searches: u64,
}

impl Default for ResidentSettings {
    fn default() -> Self {
        ResidentSettings { memory_bytes_max: 1 << 30, folder: None, hot_searches: 0 }
    }
}

/// The use cases over one lake.
pub struct Service {
    pub(crate) lake: Arc<Lake>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) allow_anonymous: bool,
    pub(crate) admission: Admission,
    pub(crate) audit: AuditLog,
    pub(crate) backup: RunningBackup,
    pub(crate) beats: Beats,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) column_jobs: Arc<ColumnJobs>,
    /// Held while a table is compacted: the memory of one is stated, that of many would not be.
    pub(crate) compacting: tokio::sync::Mutex<()>,
    pub(crate) dictionaries: Dictionaries,
    pub(crate) gate: Gate,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) keys: KeyCache,
    /// What maintenance did, until it is in the history.
    pub(crate) maintained: std::sync::Mutex<Vec<lakebed_compaction::Done>>,
    pub(crate) once: Once,
    pub(crate) peer_tls: Option<PeerTls>,
    pub(crate) peers: PeerConnections,
    pub(crate) prepared: PreparedStatements,
    pub(crate) residents: Arc<Residents>,
    pub(crate) running: Running,
    pub(crate) secrets_key: KeyPlace,
    pub(crate) sql: Sql,
    pub(crate) tickets: Tickets,
}

impl Service {
    /// Opens the service over a lake.
    pub async fn open(options: ServiceOptions) -> Result<Arc<Service>> {
        let ServiceOptions {
            lake,
            limits,
            clock,
            allow_anonymous,
            peer_tls,
            resident,
            secrets_key_file,
        } = options;
        let admission = Admission::new(&limits);
        let spill_folder = match lake.local_folder() {
            Some(folder) => folder.join("_lakebed/tmp/sql"),
            // Several servers of the lake may run on one machine.
            None => std::env::temp_dir().join(format!("lakebed-sql-{}", uuid::Uuid::now_v7())),
        };
        let (folder, is_temporary) = match (resident.folder, lake.local_folder()) {
            (Some(folder), _) => (folder, false),
            (None, Some(folder)) => (folder.join("_lakebed/resident"), false),
            (None, None) => {
                let name = format!("lakebed-resident-{}", uuid::Uuid::now_v7());
                (std::env::temp_dir().join(name), true)
            }
        };
        let residents = Residents::start(
            ResidentOptions {
                memory_bytes_max: resident.memory_bytes_max,
                folder,
                is_temporary,
                threads: std::thread::available_parallelism().map_or(1, usize::from),
                hot_searches: resident.hot_searches,
            },
            Arc::clone(&clock),
        )?;
        let calls = Arc::new(Calls::default());
        let sql = Sql::open(SqlOptions {
            lake: Arc::clone(&lake),
            limits: limits.clone(),
            spill_folder,
            callees: Arc::clone(&calls) as _,
            residents: Arc::clone(&residents),
        })?;
        // A lake in a bucket can have several servers.
        let is_shared = lake.local_folder().is_none();
        let changes = Arc::new(Changes::default());
        let catalogue = Arc::new(Catalogue::new(Arc::clone(&changes))?);
        let audit = AuditLog::start(lake.system().clone(), Arc::clone(&clock), changes);
        let jobs = Jobs::open(lake.system().clone(), Arc::clone(&clock), is_shared).await?;
        let column_jobs = ColumnJobs::open(
            Arc::clone(&lake),
            Arc::clone(&clock),
            Arc::clone(&jobs),
            limits.task_lease_ms,
            is_shared,
        )
        .await?;
        let service = Arc::new(Service {
            lake,
            limits,
            clock,
            allow_anonymous,
            admission,
            audit,
            backup: RunningBackup::default(),
            beats: Beats::default(),
            catalogue,
            column_jobs,
            compacting: tokio::sync::Mutex::default(),
            maintained: std::sync::Mutex::default(),
            dictionaries: Dictionaries::default(),
            gate: Gate::default(),
            jobs,
            keys: KeyCache::default(),
            once: Once::default(),
            peer_tls,
            peers: PeerConnections::default(),
            prepared: PreparedStatements::default(),
            residents,
            running: Running::default(),
            secrets_key: KeyPlace::new(secrets_key_file),
            sql,
            tickets: Tickets::default(),
        });
        calls.serve(&service);
        Ok(service)
    }
    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    /// The stable id of the lake.
    pub fn lake_id(&self) -> &str {
        self.lake.lake_id()
    }
    /// Stops admitting work, waits until `deadline` for what runs, flushes. May be called twice.
    pub async fn shutdown(&self, deadline: tokio::time::Instant) {
        self.gate.close();
        self.jobs.stop();
        self.column_jobs.stop();
        let left = self.gate.wait_empty(deadline).await;
        if left > 0 {
            tracing::info!(left, "requests were still running at the shutdown deadline");
        }
        // The requests may have used up the time; the log of what they did is worth a little more.
        self.lake.flush().await;
        self.leave_servers().await;
        self.audit.stop(deadline.max(tokio::time::Instant::now() + AUDIT_GRACE)).await;
    }
    /// Checks that the store answers.
    ///
    /// # Errors
    /// `Unavailable` when it does not, or when shutdown has begun.
    pub async fn check_ready(&self) -> Result<()> {
        let _guard = self.gate.enter()?;
        self.lake.check_ready().await
    }
}
