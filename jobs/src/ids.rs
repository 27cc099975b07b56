//! The ids that a worker and the server share.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A job's id; cheap to copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(Arc<str>);

impl JobId {
    /// An id from its text, whatever it is: one that no job has is found nowhere.
    pub fn new(text: &str) -> Self {
        JobId(Arc::from(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One attempt to do one task.
///
/// Attempts of one task rise, also over restarts of the server: the upper half of the number is the
/// server's start, the lower half counts. What comes under a lower number than the task's is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The task within it.
    pub task: u64,
    /// The attempt.
    pub attempt: u64,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of task {} of job {}", self.attempt, self.task, self.job)
    }
}
