//! Metrics: one recorder for the process, rendered by the HTTP door.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::serve::VERSION;

const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// From a cached answer to a table scan.
const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// From a row to a big blob.
const BYTES: [f64; 10] = [1e2, 1e3, 1e4, 1e5, 1e6, 4e6, 1.6e7, 6.4e7, 2.56e8, 1e9];
/// Anything else that is counted, such as rows.
const COUNTS: [f64; 10] = [1.0, 2.0, 5.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];

/// The metrics of the process.
#[derive(Clone)]
pub(crate) struct Telemetry(PrometheusHandle);

impl Telemetry {
    /// Installs the recorder; once in a process.
    ///
    /// # Errors
    /// Failure when another recorder is installed.
    pub(crate) fn install() -> Result<Telemetry, Exit> {
        let failed = |error| Exit::failed(format!("start the metrics: {error}"));
        // Without buckets histograms become summaries, which cannot be added up over servers.
        let handle = PrometheusBuilder::new()
            .set_buckets(&COUNTS)
            .map_err(failed)?
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .map_err(failed)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)
            .map_err(failed)?
            .install_recorder()
            .map_err(failed)?;
        metrics::gauge!("lakebed_build_info", "version" => VERSION).set(1.0);
        Ok(Telemetry(handle))
    }

    /// Renders everything in Prometheus' text format.
    pub(crate) fn renderer(&self) -> Arc<dyn Fn() -> String + Send + Sync> {
        let handle = self.0.clone();
        Arc::new(move || {
            measure_process();
            handle.render()
        })
    }

    /// Tidies histograms until `stop` is cancelled; without it their samples pile up between
    /// renders.
    pub(crate) async fn run_upkeep(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP_INTERVAL) => self.0.run_upkeep(),
            }
        }
    }
}

fn measure_process() {
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("lakebed_process_resident_bytes").set(bytes as f64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("lakebed_process_open_files").set(files.count() as f64);
    }
}

/// Memory of the process that is in RAM, where the system says.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_size() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn histograms_have_buckets() {
        let telemetry = Telemetry::install().unwrap();
        metrics::histogram!("lakebed_test_duration_seconds").record(0.02);
        metrics::histogram!("lakebed_test_rows").record(20.0);
        let text = telemetry.renderer()();
        assert!(text.contains("lakebed_test_duration_seconds_bucket{le=\"0.025\"} 1"), "{text}");
        assert!(text.contains("lakebed_test_rows_bucket{le=\"100\"} 1"), "{text}");
        assert!(text.contains("lakebed_process_resident_bytes"), "{text}");
    }
}
