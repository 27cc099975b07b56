//! The ledger of a job: what was planned, done and filled, written down before anybody relies on it.
//!
//! It lies under `_lakebed/job_ledgers/<job>/ledger/` as numbered segments, each one object with a
//! record in a line. A segment is there whole or not at all, and its number is taken once: when another
//! server writes to the same ledger, one of the two is refused. The folder goes with the end of its job.

use bytes::Bytes;
use lakebed_core::{Error, ErrorKind, Result};
use lakebed_storage::SystemStore;
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Record {
    /// The rows of a pass over the table, from which its tasks follow.
    Planned {
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
    /// A task has no results, and why.
    GaveUp { task: u64, error: String },
    /// The fragments of these groups have their values.
    Filled { groups: Vec<u32>, version: Option<u64>, rows: u64, errors: u64 },
    /// The fragments of these groups changed before they were filled.
    Moved { groups: Vec<u32> },
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

/// The ledger of one job.
pub(crate) struct Ledger {
    system: SystemStore,
    folder: String,
    /// The number of the next segment.
    next: tokio::sync::Mutex<u64>,
}

impl Ledger {
    /// Opens a job's ledger with what it says.
    ///
    /// # Errors
    /// `Corrupt` for a segment that does not parse, `Unavailable` when the store does not answer.
    pub(crate) async fn open(system: SystemStore, job: &str) -> Result<(Ledger, Vec<Record>)> {
        let folder = format!("{}/ledger", folder_of(job));
        let (mut records, mut next) = (Vec::new(), 0);
        for object in system.list(&folder).await? {
            let Some(bytes) = system.get(&object.path).await? else { continue };
            records.extend(parse(job, &bytes)?);
            let number = object.path.rsplit('/').next().and_then(|name| name.split('.').next());
            next = number.and_then(|text| text.parse::<u64>().ok()).map_or(next, |n| n + 1);
        }
        Ok((Ledger { system, folder, next: tokio::sync::Mutex::new(next) }, records))
    }

    /// What a job's ledger says, each with when it was written, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub(crate) async fn dated(system: &SystemStore, job: &str) -> Result<Vec<(i64, Record)>> {
        let mut records = Vec::new();
        for object in system.list(&format!("{}/ledger", folder_of(job))).await? {
            let Some(bytes) = system.get(&object.path).await? else { continue };
            records.extend(parse(job, &bytes)?.into_iter().map(|it| (object.modified_ms, it)));
        }
        Ok(records)
    }

    /// Writes records down, all or none; durable when it returns.
    ///
    /// # Errors
    /// `Conflict` when another server writes to this ledger, `Unavailable` when the store does not
    /// answer; the records may be there then, and writing them again does no harm.
    pub(crate) async fn append(&self, records: &[Record]) -> Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            serde_json::to_writer(&mut bytes, record)
                .map_err(|error| Error::internal("write a record").with_source(error))?;
            bytes.push(b'\n');
        }
        let bytes = Bytes::from(bytes);
        let mut next = self.next.lock().await;
        let path = format!("{}/{:010}.jsonl", self.folder, *next);
        let is_ours = self.system.create(&path, bytes.clone()).await?
            // A write whose answer was lost is there already.
            || self.system.get(&path).await?.is_some_and(|found| found == bytes);
        if !is_ours {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another server writes to the ledger of this job",
            ));
        }
        *next += 1;
        Ok(())
    }
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
                task_rows: 256,
                first_task: 0,
                first_group: 0,
                fragments: vec![PlannedFragment {
                    fragment: 3,
                    source_files: vec!["a.lance".to_owned()],
                    places: (5..500_000).collect(),
                }],
            },
            Record::Model { name: "m".to_owned(), digest: None },
            Record::Done { task: 1, attempt: 1 << 40, errors: 0 },
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
