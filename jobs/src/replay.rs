//! What the ledger of a job says, read once when the job is taken up.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{AttemptId, JobId, RowRange};
use crate::ledger::{Record, place_in};
use crate::runtime::{Ended, EndedRows};
use crate::scheduler::ModelKey;

/// What the ledger said when the job was taken up.
#[derive(Default)]
pub(crate) struct Replayed {
    pub(crate) planned: Option<Record>,
    pub(crate) model: Option<ModelKey>,
    /// Rows of the pass that are recorded, by the first.
    pub(crate) ended: BTreeMap<u64, EndedRows>,
    pub(crate) filled: BTreeSet<u32>,
    pub(crate) moved: BTreeSet<u32>,
    pub(crate) rows_filled: u64,
    pub(crate) errors: u64,
    pub(crate) version: Option<u64>,
    pub(crate) has_given_up: bool,
    /// Whether the pass is one of tasks that were no ranges of rows: what is said of it is passed over.
    is_before: bool,
}

impl Replayed {
    pub(crate) fn of(job: &JobId, records: Vec<(u64, Record)>) -> Replayed {
        let mut replayed = Replayed::default();
        for (segment, record) in records {
            match record {
                Record::Planned { .. } => {
                    let (rows_filled, errors) = (replayed.rows_filled, replayed.errors);
                    let (model, version) = (replayed.model, replayed.version);
                    let has_given_up = replayed.has_given_up;
                    replayed = Replayed {
                        planned: Some(record),
                        model,
                        version,
                        rows_filled,
                        errors,
                        has_given_up,
                        ..Replayed::default()
                    };
                }
                Record::PlannedBefore { .. } => replayed.is_before = true,
                Record::Model { name, digest } => {
                    replayed.model = Some(ModelKey { name, digest });
                }
                _ if replayed.is_before => {}
                Record::Done { task, attempt, errors } => {
                    let attempt = AttemptId { job: job.clone(), task, attempt };
                    let (range, how) = (attempt.range(), Ended::Part(attempt));
                    replayed.end(range.first, EndedRows { end: range.end(), errors, how });
                }
                Record::DoneHere { runs } => {
                    for (first, end, errors) in &runs {
                        let Some(from) = place_in(&runs, *first) else { continue };
                        let how = Ended::Segment { number: segment, from };
                        replayed.end(*first, EndedRows { end: *end, errors: *errors, how });
                    }
                }
                Record::GaveUp { task, error } => {
                    let range = RowRange::of(task);
                    let (errors, how) = (u64::from(range.rows), Ended::GivenUp(error));
                    replayed.has_given_up = true;
                    replayed.end(range.first, EndedRows { end: range.end(), errors, how });
                }
                Record::Filled { groups, version, rows, errors } => {
                    replayed.filled.extend(groups);
                    replayed.rows_filled += rows;
                    replayed.errors += errors;
                    replayed.version = version.or(replayed.version);
                }
                Record::Moved { groups } => replayed.moved.extend(groups),
            }
        }
        replayed
    }

    fn end(&mut self, first: u64, rows: EndedRows) {
        self.ended.insert(first, rows);
    }
}
