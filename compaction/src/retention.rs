//! Which versions are expired, and the cleaning of a branch by that.
//!
//! A version is kept for an age and for a number of versions, whichever keeps more.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lakebed_core::{Error, Limits, Result};
use lakebed_storage::{CleanRule, Cleaned, RetentionFacts, Table};

use crate::settings::SETTING_PREFIX;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Versions of this age and younger, in milliseconds.
    pub age_ms: u64,
    /// So many of the newest versions; at least one.
    pub versions: u64,
    /// Files that no version names go when they were not written to for so long, in milliseconds: a write
    /// that takes longer loses them.
    pub orphan_age_ms: u64,
}

impl Retention {
    /// What a table keeps: by the limits, or by its own settings `lakebed.retention_ms` and
    /// `lakebed.retention_versions`.
    ///
    /// # Errors
    /// `InvalidArgument` naming a setting that is no number; nothing may be deleted by a guess.
    pub async fn of(table: &Arc<Table>, limits: &Limits) -> Result<Retention> {
        let mut retention = Retention {
            age_ms: limits.retention_ms,
            versions: limits.retention_versions,
            // A write in parts, or one that refers to uploads, may be completed so late.
            orphan_age_ms: limits
                .orphan_age_ms
                .max(u64::try_from(limits.upload_ttl_ms).unwrap_or(0)),
        };
        for (name, value) in table.settings(SETTING_PREFIX).await? {
            let place = match name.as_str() {
                "retention_ms" => &mut retention.age_ms,
                "retention_versions" => &mut retention.versions,
                _ => continue,
            };
            *place = value.trim().parse().map_err(|_| {
                Error::invalid(format!("setting `{SETTING_PREFIX}{name}` is `{value}`, no number"))
            })?;
        }
        Ok(retention.at_least(limits))
    }

    /// The same, but nothing younger than what cleaning must leave alone in any case: readers and writers
    /// that this server does not know of may be at it.
    pub fn at_least(self, limits: &Limits) -> Retention {
        Retention {
            age_ms: self.age_ms.max(limits.version_age_ms_min),
            versions: self.versions.max(1),
            orphan_age_ms: self.orphan_age_ms.max(limits.version_age_ms_min),
        }
    }
}

/// The expired versions, where `oldest_kept` was the newest one when the age that is kept began: it and
/// those above it are too young.
pub fn expired(facts: &RetentionFacts, oldest_kept: u64, retention: &Retention) -> Vec<u64> {
    let kept = usize::try_from(retention.versions.max(1)).unwrap_or(usize::MAX);
    let beyond = facts.numbers.len().saturating_sub(kept);
    let old = facts.numbers.iter().take(beyond).copied();
    old.filter(|version| *version < oldest_kept).collect()
}

/// Deletes what a branch need not keep, if at least `count_min` versions are expired.
///
/// # Errors
/// `NotFound` for an unknown branch, `Unavailable` when the store does not answer.
pub async fn clean(
    table: &Arc<Table>,
    branch: Option<&str>,
    retention: &Retention,
    now_ms: i64,
    count_min: usize,
    is_dry_run: bool,
) -> Result<Cleaned> {
    let facts = table.retention_facts(branch).await?;
    // Cheap first: the times of versions are looked up only where there are enough of them.
    let by_number = expired(&facts, u64::MAX, retention);
    let is_free = |version: &&u64| !facts.kept.contains_key(version);
    if by_number.iter().filter(is_free).count() < count_min {
        return Ok(Cleaned::default());
    }
    let oldest_kept = match before(now_ms, retention.age_ms) {
        Some(time) => table.newest_version_at(branch, time).await?.unwrap_or(0),
        None => 0,
    };
    let expired = expired(&facts, oldest_kept, retention);
    if expired.iter().filter(is_free).count() < count_min {
        return Ok(Cleaned::default());
    }
    let orphans_before_ms =
        now_ms.saturating_sub(i64::try_from(retention.orphan_age_ms).unwrap_or(i64::MAX));
    let rule = CleanRule { expired, orphans_before_ms, is_dry_run, ..CleanRule::default() };
    table.clean(branch, rule).await
}

fn before(now_ms: i64, age_ms: u64) -> Option<DateTime<Utc>> {
    let age = TimeDelta::try_milliseconds(i64::try_from(age_ms).ok()?)?;
    DateTime::from_timestamp_millis(now_ms)?.checked_sub_signed(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(numbers: std::ops::RangeInclusive<u64>) -> RetentionFacts {
        RetentionFacts { numbers: numbers.collect(), ..RetentionFacts::default() }
    }

    #[test]
    fn a_version_is_kept_by_its_age_or_by_its_number() {
        let retention = Retention { age_ms: 0, versions: 4, orphan_age_ms: 0 };
        assert_eq!(expired(&facts(1..=10), 10, &retention), [1, 2, 3, 4, 5, 6]);
        assert_eq!(expired(&facts(1..=10), 3, &retention), [1, 2]);
        assert!(expired(&facts(1..=10), 0, &retention).is_empty());
        assert!(expired(&facts(7..=10), 10, &retention).is_empty());
        // Versions that were kept between others count, too.
        let sparse = RetentionFacts { numbers: vec![2, 5, 9, 10, 11, 12], ..Default::default() };
        assert_eq!(expired(&sparse, 12, &retention), [2, 5]);
    }

    #[test]
    fn the_newest_version_is_never_expired() {
        let retention = Retention { age_ms: 0, versions: 0, orphan_age_ms: 0 };
        assert_eq!(expired(&facts(1..=3), u64::MAX, &retention), [1, 2]);
        assert!(expired(&facts(1..=1), u64::MAX, &retention).is_empty());
    }

    #[test]
    fn an_age_beyond_all_times_keeps_everything() {
        assert_eq!(before(1_000_000, u64::MAX), None);
        assert_eq!(before(0, 1_000).unwrap().timestamp_millis(), -1_000);
    }
}
