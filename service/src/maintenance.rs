//! Maintenance that runs beside requests: expired uploads and dropped tables.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Service;

/// Between two passes. What is deleted is hours old, so a minute more does not matter.
const INTERVAL: Duration = Duration::from_secs(60);

impl Service {
    /// Runs maintenance until `stop` is cancelled. A pass that fails is tried again by the next.
    pub async fn run_maintenance(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            match lakebed_compaction::sweep(&self.lake).await {
                Ok(swept) => {
                    metrics::counter!("lakebed_swept_uploads_total")
                        .increment(swept.uploads as u64);
                    metrics::counter!("lakebed_swept_tables_total").increment(swept.tables as u64);
                }
                Err(error) => tracing::warn!(error = %error.report(), "maintenance pass failed"),
            }
        }
    }
}
