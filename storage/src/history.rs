//! What happened between two versions of a branch: when each was committed, and what kind of change.
//!
//! Why it exists: lance stamps every row with the version that changed it last, and nothing else. When
//! that was, whether it was an edit or the filling of a column, which version deleted a row, and whether
//! a restore took rows back stands in the manifests and transactions of the versions in between.
//!
//! What always holds: a version that was cleaned meanwhile counts as one that could have done anything;
//! at most `changes_versions_max` versions are read and noted, a few at a time.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result, Subject};
use lance::Dataset;
use lance::dataset::transaction::{DataReplacementGroup, Operation, Transaction, UpdateMode};
use lance_core::datatypes::Schema;

use crate::lance_error::from_lance;
use crate::stamps::put_up_to;
use crate::version::version_numbers;
use crate::write_id::wrote_as;

/// The property of a transaction that gives a column values for rows that were there before, with the
/// names of the columns: a job's results, or a new column that is computed.
pub(crate) const BACKFILL_PROPERTY: &str = "lakebed.backfill";
/// Versions that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// The property by which a transaction says that it fills `columns`.
pub(crate) fn backfill_property(columns: &[String]) -> HashMap<String, String> {
    HashMap::from([(BACKFILL_PROPERTY.to_owned(), columns.join(","))])
}

/// Which columns a version may have edited in rows that were there before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edited {
    None,
    /// By field id.
    Fields(Vec<i32>),
    Any,
}

/// One version of the range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    committed_at: DateTime<Utc>,
    /// The version that was made the newest again.
    restored: Option<u64>,
    may_delete: bool,
    /// The fields that it filled, where it did nothing else to rows that were there before.
    filled: Option<Vec<i32>>,
    edited: Edited,
    /// Fields of the begin that the table did not have after it.
    dropped: Vec<i32>,
}

/// The versions behind `begin`, up to `end`.
#[derive(Debug)]
pub(crate) struct History {
    begin: u64,
    end: u64,
    known: BTreeMap<u64, Facts>,
    /// Fields that were filled in the range and edited by no version of it.
    only_filled: HashSet<i32>,
    /// Fields of the begin that were dropped in the range. Lance may give their ids to others.
    dropped: HashSet<i32>,
    /// The newest version that may be the stamp of a row that it did not change.
    put_up_to: u64,
}

impl History {
    /// Reads the versions behind `begin`, up to that of `end`. Fields of `old_fields` are those that
    /// `begin` has.
    ///
    /// # Errors
    /// `InvalidArgument` when there are more than `versions_max`.
    pub(crate) async fn read(
        begin: u64,
        end: &Dataset,
        old_fields: &HashSet<i32>,
        versions_max: usize,
    ) -> Result<History> {
        let last = end.version().version;
        let numbers = version_numbers(end).await?.into_iter();
        let numbers: Vec<u64> = numbers.filter(|n| (begin + 1..=last).contains(n)).collect();
        if numbers.len() > versions_max {
            return Err(Error::invalid(format!(
                "there are {} versions behind version {begin} up to {last}; the limit \
                 changes_versions_max is {versions_max}; read them in steps",
                numbers.len()
            ))
            .about(Subject::Version));
        }
        let reads = numbers.into_iter().map(|version| async move {
            match end.read_version_transaction(version).await {
                Ok(found) => {
                    let facts = Facts::of(found.timestamp, found.transaction.as_ref(), old_fields);
                    Ok(Some((version, facts)))
                }
                Err(error) => match from_lance(error) {
                    // Cleaned between the listing and here.
                    error if error.kind() == ErrorKind::NotFound => Ok(None),
                    error => Err(error.context(format!("read what version {version} did"))),
                },
            }
        });
        let known: Vec<Option<(u64, Facts)>> =
            futures::stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        let put_up_to = put_up_to(&end.manifest().config);
        Ok(History::new(begin, last, known.into_iter().flatten().collect(), put_up_to))
    }

    fn new(begin: u64, end: u64, known: BTreeMap<u64, Facts>, put_up_to: u64) -> History {
        let mut only_filled: HashSet<i32> = known
            .values()
            .filter_map(|facts| facts.filled.as_ref())
            .flat_map(|filled| filled.iter().copied())
            .collect();
        let is_whole = known.len() as u64 == end - begin;
        if !is_whole {
            only_filled.clear();
        }
        for facts in known.values() {
            match &facts.edited {
                Edited::None => {}
                Edited::Fields(fields) => only_filled.retain(|field| !fields.contains(field)),
                Edited::Any => only_filled.clear(),
            }
        }
        let dropped = known.values().flat_map(|facts| facts.dropped.iter().copied()).collect();
        History { begin, end, known, only_filled, dropped, put_up_to }
    }

    /// Whether every version of the range is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.known.len() as u64 == self.end - self.begin
    }

    /// Whether a field of the begin was dropped in the range, so that one with its id is another.
    pub(crate) fn has_dropped(&self, field: i32) -> bool {
        self.dropped.contains(&field)
    }

    /// Whether a version before the range was restored within it, or could have been: rows may have
    /// values from before the range, without a newer stamp that says so.
    pub(crate) fn is_rewound(&self) -> bool {
        let mut restored = self.known.values().filter_map(|facts| facts.restored);
        !self.is_whole() || restored.any(|version| version < self.begin)
    }

    /// The version that gave a row with this stamp its state at the end.
    pub(crate) fn version_of(&self, stamp: u64) -> u64 {
        if stamp > self.begin {
            return stamp;
        }
        // Older than the range, yet different: it came back by a restore.
        let mut newest_first = self.known.iter().rev();
        let restore = newest_first.find(|(_, facts)| facts.restored.is_some());
        restore.map_or(self.end, |(version, _)| *version)
    }

    /// The version that deleted the rows that are gone, where only one can have; else the end.
    pub(crate) fn deleting_version(&self) -> u64 {
        let mut may = self.known.iter().filter(|(_, facts)| facts.may_delete);
        match (may.next(), may.next()) {
            (Some((version, _)), None) if self.is_whole() => *version,
            _ => self.end,
        }
    }

    /// When a version was committed, where that is still known.
    pub(crate) fn committed_at(&self, version: u64) -> Option<DateTime<Utc>> {
        self.known.get(&version).map(|facts| facts.committed_at)
    }

    /// Whether a row is as it is by a backfill, when these fields of it changed in the range and its stamp
    /// is `version`.
    pub(crate) fn is_backfill(&self, version: u64, mut changed: impl Iterator<Item = i32>) -> bool {
        // A stamp that was put up may be of a backfill of other rows.
        let told = self.known.get(&version).filter(|_| version > self.put_up_to);
        let filled = told.and_then(|facts| facts.filled.as_deref()).unwrap_or_default();
        changed.all(|field| filled.contains(&field) || self.only_filled.contains(&field))
    }
}

impl Facts {
    fn of(
        committed_at: DateTime<Utc>,
        transaction: Option<&Transaction>,
        old_fields: &HashSet<i32>,
    ) -> Facts {
        let nothing = Facts {
            committed_at,
            restored: None,
            may_delete: false,
            filled: None,
            edited: Edited::None,
            dropped: Vec::new(),
        };
        // What another tool wrote without saying what it did.
        let anything = Facts { may_delete: true, edited: Edited::Any, ..nothing.clone() };
        let Some(transaction) = transaction else {
            return Facts { restored: Some(0), ..anything };
        };
        let properties = transaction.transaction_properties.as_deref();
        let says_backfill = properties
            .is_some_and(|properties| properties.contains_key(BACKFILL_PROPERTY))
            || wrote_as(properties, crate::fill::MODE);
        match &transaction.operation {
            Operation::Restore { version } => Facts { restored: Some(*version), ..anything },
            // Its schema begins to count anew.
            Operation::Overwrite { .. } => {
                let dropped = old_fields.iter().copied().collect();
                Facts { may_delete: true, dropped, ..nothing }
            }
            Operation::Delete { .. } => Facts { may_delete: true, ..nothing },
            Operation::Project { schema, .. } => {
                Facts { dropped: missing(old_fields, schema), ..nothing }
            }
            Operation::Update { update_mode, fields_modified, .. } => {
                let fields = fields_modified.iter().filter_map(|id| i32::try_from(*id).ok());
                let fields: Vec<i32> = fields.collect();
                match update_mode {
                    Some(UpdateMode::RewriteColumns) if says_backfill => {
                        Facts { filled: Some(fields), ..nothing }
                    }
                    // A merge of some columns may delete rows as well.
                    Some(UpdateMode::RewriteColumns) => {
                        Facts { edited: Edited::Fields(fields), may_delete: true, ..nothing }
                    }
                    _ => anything,
                }
            }
            // Lance fills whole columns in these two ways and changes single rows in neither.
            Operation::Merge { schema, .. } => {
                let fields = schema.fields_pre_order().map(|field| field.id);
                let new = fields.filter(|field| !old_fields.contains(field)).collect();
                Facts { filled: Some(new), dropped: missing(old_fields, schema), ..nothing }
            }
            Operation::DataReplacement { replacements } => {
                let files = replacements.iter().map(|DataReplacementGroup(_, file)| file);
                let fields = files.flat_map(|file| file.fields.iter().copied()).collect();
                Facts { filled: Some(fields), ..nothing }
            }
            Operation::DataOverlay { .. } => Facts { edited: Edited::Any, ..nothing },
            _ => nothing,
        }
    }
}

/// The fields that a schema does not have.
fn missing(fields: &HashSet<i32>, schema: &Schema) -> Vec<i32> {
    let kept: HashSet<i32> = schema.fields_pre_order().map(|field| field.id).collect();
    fields.difference(&kept).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            committed_at: DateTime::UNIX_EPOCH,
            restored: None,
            may_delete: false,
            filled: None,
            edited: Edited::None,
            dropped: Vec::new(),
        }
    }

    fn history(begin: u64, end: u64, known: &[(u64, Facts)]) -> History {
        History::new(begin, end, known.iter().cloned().collect(), 0)
    }

    #[test]
    fn a_backfill_is_no_edit_and_an_edit_no_backfill() {
        let filled = |field| Facts { filled: Some(vec![field]), ..facts() };
        let edited = |field| Facts { edited: Edited::Fields(vec![field]), ..facts() };
        let known = [(2, filled(7)), (3, edited(1)), (4, filled(8))];
        let history = history(1, 4, &known);
        assert!(history.is_backfill(4, [8].into_iter()));
        assert!(history.is_backfill(4, [7, 8].into_iter()), "two columns, both only filled");
        assert!(!history.is_backfill(4, [1, 8].into_iter()), "one of them was edited");
        assert!(!history.is_backfill(3, [1].into_iter()));
        let known = [(2, edited(7)), (3, filled(7)), (4, filled(8))];
        let history = self::history(1, 4, &known);
        assert!(history.is_backfill(3, [7].into_iter()));
        assert!(!history.is_backfill(4, [7, 8].into_iter()), "7 may be the edit of version 2");
        let put_up = History { put_up_to: 3, ..history };
        assert!(!put_up.is_backfill(3, [7].into_iter()), "it may have been the backfill of others");
        assert!(put_up.is_backfill(3, [8].into_iter()), "nobody edited it");
    }

    #[test]
    fn what_was_cleaned_could_have_done_anything() {
        let restore = Facts { restored: Some(3), may_delete: true, ..facts() };
        let delete = Facts { may_delete: true, ..facts() };
        let all = [(5, facts()), (6, restore.clone()), (7, facts())];
        assert!(history(4, 7, &all).is_rewound());
        assert_eq!(history(4, 7, &all).version_of(2), 6);
        assert!(history(2, 7, &all).is_rewound(), "versions 3 and 4 are gone");
        let within = [(3, facts()), (4, restore)];
        assert!(!history(2, 4, &within).is_rewound(), "back to what the range made");
        let one = [(5, delete.clone()), (6, facts())];
        assert_eq!(history(4, 6, &one).deleting_version(), 5);
        let two = [(5, delete.clone()), (6, delete.clone())];
        assert_eq!(history(4, 6, &two).deleting_version(), 6);
        assert_eq!(history(3, 6, &[(5, delete), (6, facts())]).deleting_version(), 6);
    }
}
