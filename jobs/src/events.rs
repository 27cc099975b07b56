//! What happened to a job: when it was asked for, what its ledger says while it runs, how it ended.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use lakebed_core::{Error, Result};

use crate::ids::RowRange;
use crate::ledger::{Ledger, Record};
use crate::registry::{Job, JobState, Jobs};

struct Event {
    at_ms: i64,
    event: &'static str,
    message: String,
}

impl Jobs {
    /// The events of a job, oldest first: `at` (milliseconds, UTC), `event` and `message`. Those of its tasks
    /// are there until it ends; the rows that had no value stay in [`ERRORS_TABLE`](crate::ERRORS_TABLE).
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn events(&self, job: &Job) -> Result<RecordBatch> {
        let mut events = vec![Event {
            at_ms: job.created_at_ms,
            event: "asked",
            message: format!("{} of table `{}`", job.job_type, job.table),
        }];
        let records = Ledger::dated(&self.system, &job.job_id).await?;
        events.extend(records.into_iter().map(|(at_ms, record)| told(at_ms, &record)));
        if let Some(at_ms) = job.ended_at_ms {
            let event = match job.state {
                JobState::Failed => "failed",
                JobState::Cancelled => "cancelled",
                JobState::TimedOut => "timed_out",
                JobState::Done | JobState::InProgress | JobState::Paused => "done",
            };
            let result = || job.result.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = job.failure.clone().unwrap_or_else(result);
            events.push(Event { at_ms, event, message });
        }
        batch(&events)
    }
}

fn told(at_ms: i64, record: &Record) -> Event {
    let (event, message) = match record {
        Record::Planned { pass, version, fragments, .. }
        | Record::PlannedBefore { pass, version, fragments, .. } => {
            let rows: u64 = fragments.iter().map(|fragment| fragment.places.len()).sum();
            ("planned", format!("pass {pass} over {rows} rows of version {version}"))
        }
        Record::Model { name, digest } => {
            ("model", format!("{name} {}", digest.as_deref().unwrap_or_default()))
        }
        Record::Done { task, errors, .. } => {
            ("task_done", format!("{}; {errors} have no value", RowRange::of(*task)))
        }
        Record::DoneHere { runs } => {
            let rows: u64 = runs.iter().map(|(first, end, _)| end - first).sum();
            let errors: u64 = runs.iter().map(|(_, _, errors)| errors).sum();
            let first = runs.iter().map(|(first, ..)| *first).min().unwrap_or(0);
            ("tasks_done", format!("{rows} rows from {first} on; {errors} have no value"))
        }
        Record::GaveUp { task, error } => {
            ("task_given_up", format!("{}: {error}", RowRange::of(*task)))
        }
        Record::Filled { version, rows, errors, .. } => {
            let version = version.map(|version| format!(" in version {version}"));
            let version = version.unwrap_or_default();
            ("filled", format!("{rows} rows{version}; {errors} have no value"))
        }
        Record::Moved { groups } => {
            ("moved", format!("{} groups of fragments changed and are done again", groups.len()))
        }
    };
    Event { at_ms, event, message }
}

fn batch(events: &[Event]) -> Result<RecordBatch> {
    let at = events.iter().map(|event| event.at_ms);
    let at = TimestampMillisecondArray::from_iter_values(at).with_timezone("UTC");
    let names = StringArray::from_iter_values(events.iter().map(|event| event.event));
    let messages = StringArray::from_iter_values(events.iter().map(|event| &event.message));
    RecordBatch::try_from_iter([
        ("at", Arc::new(at) as ArrayRef),
        ("event", Arc::new(names)),
        ("message", Arc::new(messages)),
    ])
    .map_err(|error| Error::internal("the events of a job").with_source(error))
}
