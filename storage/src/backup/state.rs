//! The system's own state on its way: what comes along, and what stays behind.
//!
//! | below `_lakebed/` | |
//! | --- | --- |
//! | `lake.json` | comes along with the new root |
//! | `catalog/` | the newest state of each, without dropped tables |
//! | `keys/`, and whatever is not named here | comes along |
//! | `cursors/` | comes along as it was before the versions were listed |
//! | `row_sets/` | comes along as it was before the versions were listed; `row_set_ids/` with what is not named |
//! | `models/` | comes along as it was before the files of models were copied |
//! | `model_files/` | comes along by digest, see `blobs.rs` |
//! | `write_ids/` | up to the newest version that came along |
//! | `jobs/` | comes along; a job that was not over is failed in the copy |
//! | `audit/` | when asked for |
//! | `lock`, `uploads/`, `probe/`, `tmp/`, `job_ledgers/`, `job_starts`, `cleanup/`, `restores/` | stays behind |
//!
//! A receipt, a cursor, a row set or a ledger that is ahead of the tables beside it would make a lake that was put
//! back claim writes it does not have: that is why these are taken early, cut, or left.

use std::collections::BTreeMap;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::TryStreamExt as _;
use lakebed_core::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt as _;
use serde_json::Value;

use super::listing::listing;
use super::record::{BACKUP_RECORD, ORIGIN_RECORD, RUNNING_RECORD};
use super::table::{TablePlan, Transfer};
use crate::lance_error::from_object_store;
use crate::models::MODEL_FILES;
use crate::root::{Root, SYSTEM_FOLDER};
use crate::row_sets::RECORDS as ROW_SETS;

/// State that must not be ahead of the tables; it is held in memory, so it has a limit.
const EARLY: [&str; 3] = ["cursors", "models", ROW_SETS];
const EARLY_BYTES_MAX: usize = 64 << 20;
/// What does not come along, or not as it is.
const NOT_AS_IT_IS: [&str; 17] = [
    "lake.json",
    "lock",
    "catalog",
    "cursors",
    "models",
    MODEL_FILES,
    ROW_SETS,
    "write_ids",
    "jobs",
    "audit",
    "uploads",
    "probe",
    "tmp",
    "job_ledgers",
    "job_starts",
    "cleanup",
    "restores",
];
const RECORDS: [&str; 3] = [BACKUP_RECORD, RUNNING_RECORD, ORIGIN_RECORD];
/// An object of the system's state is small; one that is larger was put there by somebody else.
const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// State that was read before the versions were listed.
#[derive(Debug, Default)]
pub(super) struct EarlyState(BTreeMap<String, Bytes>);

/// Reads what must not be ahead of the tables.
pub(super) async fn read_early(root: &Root) -> Result<EarlyState> {
    let (mut early, mut held) = (BTreeMap::new(), 0);
    for folder in EARLY {
        let mut found = listing(root, &format!("{SYSTEM_FOLDER}/{folder}"));
        while let Some(object) = found.try_next().await? {
            let Some(bytes) = read(root, &object.path, object.size).await? else { continue };
            held += bytes.len();
            if held > EARLY_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "`_lakebed/{folder}` holds more than {EARLY_BYTES_MAX} bytes"
                )));
            }
            early.insert(object.path, bytes);
        }
    }
    Ok(EarlyState(early))
}

async fn read(root: &Root, path: &str, size: u64) -> Result<Option<Bytes>> {
    if size > OBJECT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("`{path}` has {size} bytes, which no state of the system has"),
        ));
    }
    let read = match root.store().get(&root.path(path)).await {
        Ok(object) => object.bytes().await,
        Err(error) => Err(error),
    };
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(from_object_store(error, &format!("read of `{path}`"))),
    }
}

impl Transfer<'_> {
    /// Copies the state of the system but catalogues, receipts and the lake's record.
    #[boxed]
    pub(super) async fn copy_state(
        &self,
        early: EarlyState,
        with_audit: bool,
        now_ms: i64,
    ) -> Result<()> {
        for (path, bytes) in early.0 {
            self.put_changed(&path, bytes).await?;
        }
        let mut found = listing(self.from, SYSTEM_FOLDER);
        while let Some(object) = found.try_next().await? {
            let inside = object.path.strip_prefix(SYSTEM_FOLDER).unwrap_or(&object.path);
            let inside = inside.trim_start_matches('/');
            let first = inside.split('/').next().unwrap_or_default();
            let is_job = first == "jobs";
            let is_audit = first == "audit" && with_audit;
            let is_other = !NOT_AS_IT_IS.contains(&first) && !RECORDS.contains(&inside);
            if !(is_job || is_audit || is_other) {
                continue;
            }
            let Some(mut bytes) = read(self.from, &object.path, object.size).await? else {
                continue;
            };
            if is_job {
                match ended(bytes, now_ms) {
                    Some(job) => bytes = job,
                    None => continue,
                }
            }
            self.put_changed(&object.path, bytes).await?;
        }
        Ok(())
    }

    /// Copies the receipts of a table's writes, as far as their versions came along.
    #[boxed]
    pub(super) async fn copy_receipts(&self, plan: &TablePlan) -> Result<()> {
        let folder = format!("{SYSTEM_FOLDER}/write_ids/{}", plan.table.uid);
        let new_folder = format!("{SYSTEM_FOLDER}/write_ids/{}", plan.table.new_uid);
        let mut found = listing(self.from, &folder);
        while let Some(object) = found.try_next().await? {
            let Some(inside) = object.path.strip_prefix(&folder) else { continue };
            let Some((branch, file)) = inside.trim_start_matches('/').rsplit_once('/') else {
                continue;
            };
            let last = file.strip_suffix(".json").and_then(|name| name.rsplit('-').next());
            let last: Option<u64> = last.and_then(|last| last.parse().ok());
            let newest = plan.newest(&branch.replace("%2F", "/"));
            if last.zip(newest).is_none_or(|(last, newest)| last > newest) {
                continue;
            }
            let Some(bytes) = read(self.from, &object.path, object.size).await? else { continue };
            self.put_changed(&format!("{new_folder}{inside}"), bytes).await?;
        }
        Ok(())
    }

    /// Writes a record of the target unless it is there as it is.
    async fn put_changed(&self, path: &str, bytes: Bytes) -> Result<()> {
        let there = match self.to.store().head(&self.to.path(path)).await {
            Ok(meta) if meta.size == bytes.len() as u64 => read(self.to, path, meta.size).await?,
            _ => None,
        };
        if there.as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.copier.put(&self.to.path(path), bytes).await
    }
}

/// The record of a job as it is in a copy: what was not over never ends there. A backup that is under way
/// is left out: it is this one.
fn ended(bytes: Bytes, now_ms: i64) -> Option<Bytes> {
    let Ok(mut job) = serde_json::from_slice::<Value>(&bytes) else { return Some(bytes) };
    if !matches!(job["state"].as_str(), Some("IN_PROGRESS" | "PAUSED")) {
        return Some(bytes);
    }
    if job["job_type"] == "backup" {
        return None;
    }
    job["state"] = "FAILED".into();
    job["ended_at_ms"] = now_ms.into();
    job["failure"] = "it was under way when the backup was made; begin it again".into();
    Some(serde_json::to_vec(&job).map_or(bytes, Bytes::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_not_over_is_failed_in_the_copy() {
        let open = Bytes::from_static(br#"{"job_id":"1","state":"IN_PROGRESS"}"#);
        let copy: Value = serde_json::from_slice(&ended(open, 7).unwrap()).unwrap();
        assert_eq!(
            (copy["state"].as_str(), copy["ended_at_ms"].as_i64()),
            (Some("FAILED"), Some(7))
        );
        let own = Bytes::from_static(br#"{"job_type":"backup","state":"IN_PROGRESS"}"#);
        assert_eq!(ended(own, 7), None);
        for kept in [&br#"{"state":"DONE"}"#[..], b"no json"] {
            let kept = Bytes::from_static(kept);
            assert_eq!(ended(kept.clone(), 7), Some(kept));
        }
    }
}
