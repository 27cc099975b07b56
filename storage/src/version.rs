//! Versions of a table: listing them, and finding one by time.
//!
//! There is no index of times. Manifest names are ordered by version and commit times rise (the commit
//! path sees to that when the clock steps back), so a time is found by a binary search over manifests.

use async_recursion::async_recursion as boxed;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use lakebed_core::{Error, Result, Subject};
use lance::Dataset;
use object_store::path::Path;

use crate::lance_error::from_lance;
use crate::snapshot::Snapshot;
use crate::table::Table;

/// A version in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionEntry {
    /// Its number.
    pub version: u64,
    /// When it was committed.
    pub committed_at: DateTime<Utc>,
    /// Where its manifest lies, relative to the lake's root.
    pub manifest: String,
    /// Bytes of the manifest, where they are known.
    pub manifest_bytes: Option<u64>,
    /// What the store calls this state of the manifest, where it says.
    pub e_tag: Option<String>,
}

impl Table {
    /// Up to `limit` versions of a branch, newest first, below `before` where that is given. Only the
    /// manifests of the answer are read.
    ///
    /// # Errors
    /// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_versions(
        &self,
        branch: Option<&str>,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<VersionEntry>> {
        let latest = self.branch(branch).await?.latest().await?;
        let mut numbers = version_numbers(&latest).await?;
        numbers.reverse();
        let wanted: Vec<u64> = numbers
            .into_iter()
            .filter(|number| before.is_none_or(|before| *number < before))
            .take(limit)
            .collect();
        let entries = wanted.into_iter().map(|version| {
            let latest = latest.clone();
            async move {
                match latest.version().version == version {
                    true => Ok(self.entry_of(&latest)),
                    false => {
                        let dataset = latest.checkout_version(version).await;
                        Ok(self.entry_of(&dataset.map_err(from_lance)?))
                    }
                }
            }
        });
        use futures::StreamExt as _;
        futures::stream::iter(entries).buffered(8).try_collect().await
    }

    fn entry_of(&self, dataset: &Dataset) -> VersionEntry {
        let version = dataset.version();
        let manifest = dataset.manifest_location();
        let above = self.shared.root.path("").parts().count();
        VersionEntry {
            version: version.version,
            committed_at: version.timestamp,
            manifest: Path::from_iter(manifest.path.parts().skip(above)).to_string(),
            manifest_bytes: manifest.size,
            e_tag: manifest.e_tag.clone(),
        }
    }
}

impl Snapshot {
    /// The version in a listing.
    pub fn entry(&self) -> VersionEntry {
        self.table().entry_of(&self.dataset)
    }
}

/// The numbers of the versions that exist, ascending.
pub(crate) async fn version_numbers(dataset: &Dataset) -> Result<Vec<u64>> {
    let refs = dataset.version_refs().await.map_err(from_lance)?;
    Ok(refs.into_iter().map(|version| version.version).collect())
}

/// The oldest version that exists.
pub(crate) async fn oldest_version(dataset: &Dataset) -> Result<u64> {
    let numbers = version_numbers(dataset).await?;
    numbers.first().copied().ok_or_else(|| Error::internal("a table has no version"))
}

async fn time_of(dataset: &Dataset, version: u64) -> Result<DateTime<Utc>> {
    if dataset.version().version == version {
        return Ok(dataset.version().timestamp);
    }
    let dataset = dataset.checkout_version(version).await.map_err(from_lance)?;
    Ok(dataset.version().timestamp)
}

/// The newest version that was committed at or before `time`.
pub(crate) async fn version_at(latest: &Dataset, time: DateTime<Utc>) -> Result<u64> {
    if latest.version().timestamp <= time {
        return Ok(latest.version().version);
    }
    let numbers = version_numbers(latest).await?;
    // Invariant: every version before `low` is at or before `time`, every one from `high` is after.
    let (mut low, mut high) = (0, numbers.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if time_of(latest, numbers[middle]).await? <= time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    match low.checked_sub(1) {
        Some(found) => Ok(numbers[found]),
        None => {
            let oldest = match numbers.first() {
                Some(oldest) => time_of(latest, *oldest).await?,
                None => latest.version().timestamp,
            };
            Err(Error::not_found(format!(
                "no version is as old as {}; the oldest is of {}",
                time.to_rfc3339(),
                oldest.to_rfc3339()
            ))
            .about(Subject::Version))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::TimeDelta;
    use lance::dataset::CommitBuilder;
    use lance::dataset::transaction::{Operation, Transaction};

    use super::*;
    use crate::durable::DurableCommitHandler;
    use crate::test_lake;

    #[tokio::test(flavor = "multi_thread")]
    async fn times_rise_when_the_clock_is_an_hour_behind() {
        let (lake, _folder) = test_lake::lake().await;
        test_lake::create(&lake, "t").await;
        let table = lake.table(&test_lake::id("t")).await.unwrap();
        let branch = table.branch(None).await.unwrap();

        // Version 2 is of a clock that was an hour ahead.
        let ahead = Utc::now() + TimeDelta::hours(1);
        let not_before_nanos = ahead.timestamp_nanos_opt().unwrap() as u128;
        let nothing = Operation::Append { fragments: Vec::new() };
        let committed = CommitBuilder::new(branch.latest().await.unwrap())
            .with_commit_handler(Arc::new(DurableCommitHandler {
                not_before_nanos,
                ..DurableCommitHandler::default()
            }))
            .execute(Transaction::new(1, nothing, None))
            .await
            .unwrap();
        assert_eq!(committed.version().timestamp, ahead);
        branch.publish(Arc::new(committed)).await;

        for n in 0..2 {
            let (schema, batches, options) = test_lake::row(n);
            table.append(None, schema, batches, options).await.unwrap();
        }
        let mut versions = table.list_versions(None, 10, None).await.unwrap();
        versions.reverse();
        assert_eq!(versions.len(), 4);
        assert!(versions.is_sorted_by(|a, b| a.committed_at < b.committed_at), "{versions:?}");
        let latest = branch.latest().await.unwrap();
        for VersionEntry { version, committed_at, .. } in versions {
            assert_eq!(version_at(&latest, committed_at).await.unwrap(), version);
        }
        assert_eq!(version_at(&latest, Utc::now()).await.unwrap(), 1);
    }
}
