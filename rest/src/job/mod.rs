//! Verbs on jobs, one file each.

pub(crate) mod cancel;
pub(crate) mod describe;
pub(crate) mod list;
pub(crate) mod pause;
pub(crate) mod query_events;
pub(crate) mod submit;

use lakebed_core::{Error, Result};
use lakebed_service::JobState;

/// A state as the SDKs spell it.
fn state(state: JobState) -> &'static str {
    match state {
        JobState::InProgress => "IN_PROGRESS",
        JobState::Paused => "PAUSED",
        JobState::Done => "DONE",
        JobState::Failed => "FAILED",
        JobState::Cancelled => "CANCELLED",
        JobState::TimedOut => "TIMED_OUT",
    }
}

/// The job that a body names.
fn job_id(given: Option<String>) -> Result<String> {
    given.filter(|id| !id.is_empty()).ok_or_else(|| Error::invalid("field `job_id` is missing"))
}
