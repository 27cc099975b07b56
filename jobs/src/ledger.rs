//! The ledger of a job: what was planned, done and filled, written down before anybody relies on it.
//!
//! It lies under `_lakebed/job_ledgers/<job>/ledger/` as numbered segments, each one object: lines with a
//! record each, or results that came with the reports of workers, an Arrow stream whose schema has the
//! records among its metadata. A segment is there whole or not at all, and its number is taken once: when
//! another server writes to the same ledger, one of the two is refused. The folder goes with the end of
//! its job.
//!
//! ```text
//!   reports ─► queue ─► whoever comes first writes what is there as one segment ─► all are told
//! ```
//!
//! What always holds: what was queued first is in no later segment than what came after it; once a write
//! failed, so that nobody knows whether it is there, the ledger takes nothing more and has to be opened
//! again.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::{SystemObject, SystemStore};
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::ids::RowRange;
use crate::parts;

/// Bytes of results that are written as one segment, unless those of one report are more.
const SEGMENT_BYTES: usize = 8 << 20;
/// Bytes of a segment with results that are read to see its records.
const HEAD_BYTES: u64 = 1 << 20;
/// Segments that are read at once when a job is taken up: a large one has thousands.
const READS_AT_ONCE: usize = 32;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Record {
    /// The rows of a pass over the table.
    #[serde(rename = "planned_rows")]
    Planned {
        pass: u32,
        version: u64,
        first_row: u64,
        first_group: u32,
        fragments: Vec<PlannedFragment>,
    },
    /// A pass as it was planned before tasks were ranges of rows. It is planned and done again; what it
    /// filled is filled, by its write ids.
    #[serde(rename = "planned")]
    PlannedBefore {
        pass: u32,
        version: u64,
        task_rows: u32,
        first_task: u64,
        first_group: u32,
        fragments: Vec<PlannedFragment>,
    },
    /// The model that the job keeps to.
    Model { name: String, digest: Option<String> },
    /// The results of a task are in the part of this attempt.
    Done { task: u64, attempt: u64, errors: u64 },
    /// The results of these rows are in this segment, one run after the other.
    DoneHere { runs: Vec<DoneRun> },
    /// A task has no results, and why.
    GaveUp { task: u64, error: String },
    /// The fragments of these groups have their values.
    Filled { groups: Vec<u32>, version: Option<u64>, rows: u64, errors: u64 },
    /// The fragments of these groups changed before they were filled.
    Moved { groups: Vec<u32> },
}

/// Rows with results: the first, the one after the last, and how many of them have an error.
pub(crate) type DoneRun = (u64, u64, u64);

/// Results of one task that are not durable yet, by place.
#[derive(Debug, Clone)]
pub(crate) struct Inline {
    pub(crate) range: RowRange,
    /// The group of its rows.
    pub(crate) group: u32,
    pub(crate) batch: RecordBatch,
    pub(crate) errors: u64,
}

/// The rows of one fragment in a pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedFragment {
    pub(crate) fragment: u32,
    pub(crate) source_files: Vec<String>,
    #[serde(serialize_with = "write_bitmap", deserialize_with = "read_bitmap")]
    pub(crate) places: RoaringBitmap,
}

fn write_bitmap<S: Serializer>(bitmap: &RoaringBitmap, serializer: S) -> Result<S::Ok, S::Error> {
    use base64::Engine as _;
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn read_bitmap<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoaringBitmap, D::Error> {
    use base64::Engine as _;
    let text = String::deserialize(deserializer)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    let bytes = bytes.map_err(serde::de::Error::custom)?;
    RoaringBitmap::deserialize_from(bytes.as_slice()).map_err(serde::de::Error::custom)
}

/// The folder of a job's ledger and parts.
pub(crate) fn folder_of(job: &str) -> String {
    format!("job_ledgers/{job}")
}

/// What is to be written together, and who waits for it.
struct Queued {
    records: Vec<Record>,
    results: Vec<Inline>,
    written: oneshot::Sender<Result<Written>>,
}

/// Something that was queued.
pub(crate) struct Ticket(oneshot::Receiver<Result<Written>>);

/// The segment in which something was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    number: u64,
    runs: Arc<[DoneRun]>,
}

impl Written {
    /// The segment, and from which of its rows on it has the results of a row.
    pub(crate) fn place_of(&self, row: u64) -> Option<(u64, u64)> {
        place_in(&self.runs, row).map(|from| (self.number, from))
    }
}

/// From which row on a segment with these runs has the results of a row.
pub(crate) fn place_in(runs: &[DoneRun], row: u64) -> Option<u64> {
    let mut from = 0;
    for (first, end, _) in runs {
        if (*first..*end).contains(&row) {
            return Some(from + (row - first));
        }
        from += end - first;
    }
    None
}

struct Writer {
    /// The number of the next segment.
    next: u64,
    /// Whether a write failed or was left half way.
    is_broken: bool,
}

/// The ledger of one job.
pub(crate) struct Ledger {
    system: SystemStore,
    folder: String,
    queue: Mutex<Vec<Queued>>,
    writer: tokio::sync::Mutex<Writer>,
    /// Whether the job's record is durable: nothing is written before.
    is_stored: CancellationToken,
}

impl Ledger {
    /// The ledger of a job that begins; `is_stored` is cancelled once its record is durable.
    pub(crate) fn new(system: SystemStore, job: &str, is_stored: CancellationToken) -> Ledger {
        Ledger {
            system,
            folder: folder_of_ledger(job),
            queue: Mutex::default(),
            writer: tokio::sync::Mutex::new(Writer { next: 0, is_broken: false }),
            is_stored,
        }
    }

    /// Opens a job's ledger with what it says, each record with its segment.
    ///
    /// # Errors
    /// `Corrupt` for a segment that does not parse, `Unavailable` when the store does not answer.
    pub(crate) async fn open(
        system: SystemStore,
        job: &str,
    ) -> Result<(Ledger, Vec<(u64, Record)>)> {
        let stored = CancellationToken::new();
        stored.cancel();
        let mut ledger = Ledger::new(system, job, stored);
        let segments = read_all(&ledger.system, job).await?;
        let numbers = segments.iter().filter_map(|(object, _)| number_of(&object.path));
        ledger.writer.get_mut().next = numbers.max().map_or(0, |last| last + 1);
        let mut records = Vec::new();
        for (object, found) in segments {
            let Some(number) = number_of(&object.path) else { continue };
            records.extend(found.into_iter().map(|record| (number, record)));
        }
        Ok((ledger, records))
    }

    /// What a job's ledger says, each with when it was written, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub(crate) async fn dated(system: &SystemStore, job: &str) -> Result<Vec<(i64, Record)>> {
        let segments = read_all(system, job).await?.into_iter();
        let dated = segments.flat_map(|(object, records)| {
            records.into_iter().map(move |record| (object.modified_ms, record))
        });
        Ok(dated.collect())
    }

    /// Writes records down, all or none; durable when it returns.
    ///
    /// # Errors
    /// As [`Ledger::written`].
    pub(crate) async fn append(&self, records: &[Record]) -> Result<()> {
        let ticket = self.queue(records.to_vec(), Vec::new());
        self.written(ticket).await.map(|_| ())
    }

    /// Puts records and results in the queue, to be written all or none once somebody waits for these, or
    /// for what was queued after them, with [`Ledger::written`].
    pub(crate) fn queue(&self, records: Vec<Record>, results: Vec<Inline>) -> Ticket {
        let (written, ticket) = oneshot::channel();
        let queued = Queued { records, results, written };
        self.lock().push(queued);
        Ticket(ticket)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Queued>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what was queued is durable, and has it written with all that came meanwhile.
    ///
    /// # Errors
    /// `Conflict` when another server writes to this ledger, `Unavailable` when the store does not
    /// answer; the records may be there then, and the ledger has to be opened again.
    pub(crate) async fn written(&self, ticket: Ticket) -> Result<Written> {
        let Ticket(mut ticket) = ticket;
        loop {
            let mut writer = self.writer.lock().await;
            match ticket.try_recv() {
                Ok(outcome) => return outcome,
                Err(oneshot::error::TryRecvError::Closed) => return Err(broken()),
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            self.is_stored.cancelled().await;
            let together = self.take_some();
            if writer.is_broken {
                answer(together, || Err(broken()));
                continue;
            }
            // Also where this call is dropped on the way.
            writer.is_broken = true;
            let number = writer.next;
            let outcome = self.write(number, &together).await;
            if outcome.is_ok() {
                *writer = Writer { next: number + 1, is_broken: false };
            }
            answer(together, || match &outcome {
                Ok(runs) => Ok(Written { number, runs: Arc::clone(runs) }),
                Err(error) => Err(Error::new(error.kind(), error.message().to_owned())),
            });
        }
    }

    /// What is written next: all that is queued, up to some bytes.
    fn take_some(&self) -> Vec<Queued> {
        let mut queue = self.lock();
        let (mut bytes, mut count) = (0, 0);
        for queued in queue.iter() {
            bytes += queued.results.iter().map(|it| parts::bytes_of(&it.batch)).sum::<usize>();
            if count > 0 && bytes > SEGMENT_BYTES {
                break;
            }
            count += 1;
        }
        queue.drain(..count).collect()
    }

    async fn write(&self, number: u64, together: &[Queued]) -> Result<Arc<[DoneRun]>> {
        let mut results: Vec<&Inline> = together.iter().flat_map(|it| &it.results).collect();
        results.sort_by_key(|it| it.range.first);
        let mut records: Vec<&Record> = together.iter().flat_map(|it| &it.records).collect();
        let runs = runs_of(&results);
        let here = Record::DoneHere { runs: runs.clone() };
        if !results.is_empty() {
            records.push(&here);
        }
        let lines = lines(&records)?;
        let bytes = Bytes::from(match results.is_empty() {
            true => lines.into_bytes(),
            false => parts::segment(lines, results.iter().map(|it| &it.batch))?,
        });
        let path = path_of(&self.folder, number);
        let is_ours = self.system.create(&path, bytes.clone()).await?
            // A write whose answer was lost is there already.
            || self.system.get(&path).await?.is_some_and(|found| found == bytes);
        match is_ours {
            true => Ok(runs.into()),
            false => Err(Error::new(
                ErrorKind::Conflict,
                "another server writes to the ledger of this job",
            )),
        }
    }

    /// The results in a segment.
    ///
    /// # Errors
    /// `Corrupt` when it is gone or broken.
    pub(crate) async fn results(&self, number: u64) -> Result<RecordBatch> {
        parts::load_at(&self.system, &path_of(&self.folder, number)).await
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Unavailable, "the ledger of this job has to be read again")
}

fn answer(together: Vec<Queued>, outcome: impl Fn() -> Result<Written>) {
    for queued in together {
        // Whoever waited may be gone.
        let _ = queued.written.send(outcome());
    }
}

fn folder_of_ledger(job: &str) -> String {
    format!("{}/ledger", folder_of(job))
}

fn path_of(folder: &str, number: u64) -> String {
    format!("{folder}/{number:010}.segment")
}

fn number_of(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.split('.').next()?.parse().ok()
}

/// Results of one group that lie side by side as runs: a group is filled alone.
fn runs_of(results: &[&Inline]) -> Vec<DoneRun> {
    let mut runs: Vec<DoneRun> = Vec::new();
    let mut group = None;
    for it in results {
        match runs.last_mut() {
            Some((_, end, errors)) if *end == it.range.first && group == Some(it.group) => {
                (*end, *errors) = (it.range.end(), *errors + it.errors);
            }
            _ => runs.push((it.range.first, it.range.end(), it.errors)),
        }
        group = Some(it.group);
    }
    runs
}

fn lines(records: &[&Record]) -> Result<String> {
    let mut lines = String::new();
    for record in records {
        let line = serde_json::to_string(record)
            .map_err(|error| Error::internal("write a record").with_source(error))?;
        lines.push_str(&line);
        lines.push('\n');
    }
    Ok(lines)
}

/// The records of all segments, in their order.
async fn read_all(system: &SystemStore, job: &str) -> Result<Vec<(SystemObject, Vec<Record>)>> {
    let objects = system.list(&folder_of_ledger(job)).await?;
    let segments = objects.into_iter().map(|object| async move {
        let records = read(system, job, &object.path, object.size).await?;
        Ok::<_, Error>((object, records))
    });
    futures::stream::iter(segments).buffered(READS_AT_ONCE).try_collect().await
}

/// The records of a segment; of one with results no more than its head is read.
async fn read(system: &SystemStore, job: &str, path: &str, size: u64) -> Result<Vec<Record>> {
    let mut head = HEAD_BYTES.min(size);
    while head > 0 {
        let Some(bytes) = system.get_range(path, 0..head).await? else { break };
        let is_whole = head == size;
        if parts::is_segment(&bytes) {
            match parts::records_in(&bytes) {
                Ok(lines) => return parse(job, lines.as_bytes()),
                Err(error) if is_whole => return Err(error),
                Err(_) => {}
            }
        } else if is_whole {
            return parse(job, &bytes);
        }
        head = size.min(head * 16);
    }
    Ok(Vec::new())
}

/// The records of a segment.
fn parse(job: &str, bytes: &[u8]) -> Result<Vec<Record>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let records = lines.map(|line| {
        serde_json::from_slice(line).map_err(|error| {
            let message = format!("the ledger of job {job} cannot be read");
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        })
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let records = [
            Record::Planned {
                pass: 1,
                version: 7,
                first_row: 0,
                first_group: 0,
                fragments: vec![PlannedFragment {
                    fragment: 3,
                    source_files: vec!["a.lance".to_owned()],
                    places: (5..500_000).collect(),
                }],
            },
            Record::Model { name: "m".to_owned(), digest: None },
            Record::Done { task: 1, attempt: 1 << 40, errors: 0 },
            Record::DoneHere { runs: vec![(0, 256, 1), (512, 1 << 30, 0)] },
            Record::GaveUp { task: 2, error: "no".to_owned() },
            Record::Filled { groups: vec![0], version: Some(8), rows: 9, errors: 1 },
            Record::Moved { groups: vec![1] },
        ];
        for record in records {
            let text = serde_json::to_string(&record).unwrap();
            assert!(text.len() < 100_000, "{}", text.len());
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}
