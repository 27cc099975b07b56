//! The results of rows that have ended, read back to fill their fragment: from parts, one task each, and
//! from segments of the ledger, which have those of many tasks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::SystemStore;

use crate::parts;
use crate::runtime::{Ended, Running};

/// Bytes of segments that are kept at hand: the rows of a fragment lie in those of many reports that came
/// at the same time.
const KEPT_BYTES: usize = 64 << 20;

/// Reads results of one job.
pub(crate) struct ResultsCache {
    run: Arc<Running>,
    system: SystemStore,
    segments: Mutex<VecDeque<(u64, RecordBatch)>>,
}

impl ResultsCache {
    pub(crate) fn new(run: Arc<Running>, system: SystemStore) -> Self {
        ResultsCache { run, system, segments: Mutex::default() }
    }

    /// The results of some rows that have ended together, of which some are errors.
    ///
    /// # Errors
    /// `Corrupt` when they are gone, broken or others than they should.
    pub(crate) async fn of(&self, ended: &Ended, rows: u64, errors: u64) -> Result<RecordBatch> {
        let (number, from) = match ended {
            Ended::Part(attempt) => return parts::load(&self.system, attempt, errors).await,
            Ended::Segment { number, from } => (*number, *from),
            Ended::GivenUp(_) => return Err(Error::internal("results of rows that have none")),
        };
        let segment = self.segment(number).await?;
        let length = usize::try_from(rows).unwrap_or(usize::MAX);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        if from.saturating_add(length) > segment.num_rows() {
            let message = format!("segment {number} of the ledger has fewer rows than it says");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(segment.slice(from, length))
    }

    async fn segment(&self, number: u64) -> Result<RecordBatch> {
        if let Some(found) = self.kept(number) {
            return Ok(found);
        }
        let found = self.run.ledger.results(number).await?;
        let mut kept = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((number, found.clone()));
        let mut bytes = 0;
        kept.retain(|(_, batch)| {
            bytes += parts::bytes_of(batch);
            bytes <= KEPT_BYTES
        });
        Ok(found)
    }

    /// A segment that is at hand; it becomes the last to go.
    fn kept(&self, number: u64) -> Option<RecordBatch> {
        let mut kept = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(of, _)| *of == number)?;
        let found = kept.remove(at)?;
        kept.push_front(found.clone());
        Some(found.1)
    }
}
