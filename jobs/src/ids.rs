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

/// Rows of a job that are done as one task. The rows of a job are numbered through all its passes.
///
/// The number of a task is its range: 16 bits of rows less one below the first row. So whoever holds a
/// task says all that is to be known of it, also to a server that was started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRange {
    /// The first row.
    pub first: u64,
    /// How many; 1 to [`RowRange::ROWS_MAX`].
    pub rows: u32,
}

impl RowRange {
    /// Rows that a task can have.
    pub const ROWS_MAX: u32 = 1 << 16;
    /// Rows that a job can have: their tasks' numbers are whole also in JSON.
    pub const NUMBERS_MAX: u64 = 1 << 37;

    /// The range from `first` on, cut to what a task can have.
    pub fn new(first: u64, rows: u64) -> Self {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX).clamp(1, Self::ROWS_MAX);
        RowRange { first, rows }
    }

    /// The range that a task's number stands for.
    pub fn of(task: u64) -> Self {
        RowRange { first: task >> 16, rows: (task & 0xffff) as u32 + 1 }
    }

    /// The number of the task.
    pub fn task(self) -> u64 {
        self.first << 16 | u64::from(self.rows - 1)
    }

    /// The row after the last.
    pub fn end(self) -> u64 {
        self.first + u64::from(self.rows)
    }
}

impl fmt::Display for RowRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows {} to {}", self.first, self.end() - 1)
    }
}

/// One attempt to do one task.
///
/// Attempts rise, also over restarts of the server: the upper half of the number is the server's start,
/// the lower half counts. What comes under a lower number than the rows' last is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The task within it: the number of a [`RowRange`].
    pub task: u64,
    /// The attempt.
    pub attempt: u64,
}

impl AttemptId {
    /// The rows of the task.
    pub fn range(&self) -> RowRange {
        RowRange::of(self.task)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of {} of job {}", self.attempt, self.range(), self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_its_rows() {
        for (first, rows) in [(0, 1), (7, 65_536), (RowRange::NUMBERS_MAX - 1, 256)] {
            let range = RowRange::new(first, rows);
            assert_eq!(RowRange::of(range.task()), range);
            assert_eq!(range.end(), first + rows);
            assert!(range.task() < 1 << 53);
        }
        assert_eq!(RowRange::new(3, 1 << 40).rows, RowRange::ROWS_MAX);
    }
}
