//! Maintenance that runs beside requests: expired uploads, dropped tables, and small fragments.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lakebed_compaction::{Budget, Targets, compact, sweep};
use lakebed_core::ErrorKind;
use lakebed_storage::Table;
use tokio_util::sync::CancellationToken;

use crate::Service;

/// The newest version of each table that was looked at, by the table's uid: a table that nobody changed
/// since is not looked at again.
type Seen = HashMap<String, u64>;

impl Service {
    /// Runs maintenance until `stop` is cancelled. A pass that fails is tried again by the next.
    pub async fn run_maintenance(self: Arc<Self>, stop: CancellationToken) {
        let interval = Duration::from_millis(self.limits.maintenance_interval_ms);
        let mut seen = Seen::new();
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match sweep(&self.lake).await {
                Ok(swept) => {
                    metrics::counter!("lakebed_swept_uploads_total")
                        .increment(swept.uploads as u64);
                    metrics::counter!("lakebed_swept_tables_total").increment(swept.tables as u64);
                }
                Err(error) => tracing::warn!(error = %error.report(), "maintenance pass failed"),
            }
            if self.limits.compaction_bytes_max > 0 {
                stop.run_until_cancelled(self.compact_open_tables(&mut seen)).await;
            }
        }
    }

    /// One table after the other, those that this process has worked with.
    async fn compact_open_tables(&self, seen: &mut Seen) {
        let tables = self.lake.open_tables();
        seen.retain(|uid, _| tables.iter().any(|table| table.uid() == uid));
        for table in tables {
            // What changes while it is looked at is seen by the next pass.
            let version = match table.newest_known_version(None).await {
                Ok(version) if seen.get(table.uid()) != Some(&version) => version,
                Ok(_) => continue,
                Err(error) => {
                    let error = error.report();
                    tracing::warn!(table = table.location(), %error, "not looked at");
                    continue;
                }
            };
            if self.compact_in_budget(&table).await {
                seen.insert(table.uid().to_owned(), version);
            }
        }
    }

    /// Whether there is nothing more to do until the table changes.
    async fn compact_in_budget(&self, table: &Arc<Table>) -> bool {
        let budget = Budget { bytes_max: self.limits.compaction_bytes_max, is_dry_run: false };
        let _compacting = self.compacting.lock().await;
        match compact(table, None, &Targets::default(), budget).await {
            Ok(pass) => {
                metrics::counter!("lakebed_compacted_fragments_total")
                    .increment(pass.removed as u64);
                metrics::counter!("lakebed_compactions_lost_total").increment(pass.lost as u64);
                if pass.done > 0 {
                    tracing::info!(
                        table = table.location(),
                        version = pass.version,
                        removed = pass.removed,
                        added = pass.added,
                        left = pass.left,
                        "compacted"
                    );
                }
                pass.planned.is_empty()
            }
            // It was dropped, and is here until its last reader is gone.
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(
                    table = table.location(),
                    error = %error.report(),
                    "a compaction failed"
                );
                false
            }
        }
    }
}
