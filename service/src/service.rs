//! The service: what every verb holds on to.
use std::sync::Arc;

use lakebed_core::{Clock, Limits, Result};
use lakebed_storage::Lake;
use tokio_util::sync::CancellationToken;

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
}

/// The use cases over one lake.
pub struct Service {
    pub(crate) lake: Arc<Lake>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) allow_anonymous: bool,
}

impl Service {
    /// Opens the service over a lake.
    pub async fn open(options: ServiceOptions) -> Result<Arc<Service>> {
        let ServiceOptions { lake, limits, clock, allow_anonymous } = options;
        Ok(Arc::new(Service { lake, limits, clock, allow_anonymous }))
    }
    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    /// The stable id of the lake.
    pub fn lake_id(&self) -> &str {
        unimplemented!()
    }
    /// Stops admitting work, waits until `deadline` for what runs, flushes. May be called twice.
    pub async fn shutdown(&self, _deadline: tokio::time::Instant) {
        unimplemented!()
    }
    /// Checks that the store answers.
    pub async fn check_ready(&self) -> Result<()> {
        unimplemented!()
    }
    /// Runs maintenance until `stop` is cancelled.
    pub async fn run_maintenance(self: Arc<Self>, _stop: CancellationToken) {
        unimplemented!()
    }
}
