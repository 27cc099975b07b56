//! What one line of versions changed since a version that it began with, column by column.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use lakebed_core::Result;
use lance_core::datatypes::Field;
use roaring::RoaringTreemap;

use crate::changes::history_of;
use crate::diff::{Diff, Verdict};
use crate::snapshot::Snapshot;

/// A column that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reshaped {
    /// It was not there.
    Added,
    /// It is not there any more.
    Dropped,
    /// It has another name now.
    Renamed(String),
    /// It has another type now, or another rule for null.
    Retyped,
}

/// What a line of versions changed between two of them.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) base: Snapshot,
    pub(super) tip: Snapshot,
    /// Rows of the tip.
    pub(super) inserted: RoaringTreemap,
    /// Rows of the base.
    pub(super) deleted: RoaringTreemap,
    /// Rows of both whose value differs, by the column's name at the base, or at the tip where it is new.
    pub(super) updated: BTreeMap<String, RoaringTreemap>,
    /// Columns of the base by their name at the tip, where they are there.
    names: BTreeMap<String, String>,
    /// By the name that `updated` has.
    pub(super) reshaped: BTreeMap<String, Reshaped>,
}

impl Side {
    /// Compares two versions of one branch; values of the rows of `only` alone, where it is given.
    ///
    /// # Errors
    /// `InvalidArgument` when rows have no stable ids or the versions are too far apart.
    pub(super) async fn read(
        base: &Snapshot,
        tip: &Snapshot,
        only: Option<&RoaringTreemap>,
    ) -> Result<Side> {
        let mut diff = Diff::new(Some(base), tip, None)?;
        let history = history_of(Some(base), tip).await?;
        diff.settle(&history);
        let sets = diff.rows(&history).await?;
        let mut side = Side {
            base: base.clone(),
            tip: tip.clone(),
            inserted: sets.inserted,
            deleted: sets.deleted,
            updated: BTreeMap::new(),
            names: BTreeMap::new(),
            reshaped: BTreeMap::new(),
        };
        side.match_columns(&diff);
        let suspects = match only {
            Some(only) => sets.suspects & only,
            None => sets.suspects,
        };
        let rows = usize::try_from(diff.batch_rows().await?).unwrap_or(1);
        let mut chunks = std::pin::pin!(chunks(suspects, rows));
        while let Some(chunk) = chunks.try_next().await? {
            let verdicts = diff.compare(&chunk).await?;
            for (row, (verdict, _)) in chunk.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Same => {}
                    Verdict::Changed(columns) => {
                        for at in columns {
                            let column = &diff.columns()[at];
                            let name = column.was.as_ref().unwrap_or(&column.name);
                            side.updated.entry(name.clone()).or_default().insert(row);
                        }
                    }
                    Verdict::Other => {
                        side.deleted.insert(row);
                        side.inserted.insert(row);
                    }
                }
            }
        }
        Ok(side)
    }

    fn match_columns(&mut self, diff: &Diff) {
        let (old, new) = (self.base.dataset.schema(), self.tip.dataset.schema());
        for column in diff.columns() {
            let Some(was) = &column.was else {
                self.reshaped.insert(column.name.clone(), Reshaped::Added);
                continue;
            };
            self.names.insert(was.clone(), column.name.clone());
            if *was != column.name {
                self.reshaped.insert(was.clone(), Reshaped::Renamed(column.name.clone()));
                continue;
            }
            let field = |fields: &[Field], name: &str| {
                fields.iter().find(|field| field.name == name).map(shape)
            };
            if field(&old.fields, was) != field(&new.fields, &column.name) {
                self.reshaped.insert(was.clone(), Reshaped::Retyped);
            }
        }
        for field in &old.fields {
            if !self.names.contains_key(&field.name) {
                self.reshaped.insert(field.name.clone(), Reshaped::Dropped);
            }
        }
    }

    /// The name at the tip of a column of the base, or of one that is new; nothing where it was dropped.
    pub(super) fn name_at_tip<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self.names.get(name) {
            Some(now) => Some(now),
            None => (self.reshaped.get(name) == Some(&Reshaped::Added)).then_some(name),
        }
    }

    /// The rows with a value that differs.
    pub(super) fn updated_rows(&self) -> RoaringTreemap {
        self.updated.values().fold(RoaringTreemap::new(), |all, rows| all | rows)
    }

    /// Whether it changed nothing.
    pub(super) fn is_unchanged(&self) -> bool {
        self.inserted.is_empty()
            && self.deleted.is_empty()
            && self.updated.is_empty()
            && self.reshaped.is_empty()
    }
}

/// What a column's values look like, whatever their field ids.
pub(super) fn shape(field: &Field) -> (arrow_schema::DataType, bool) {
    (field.data_type(), field.nullable)
}

/// The ids of a set in ascending order, up to `rows` at a time.
pub(super) fn chunks(
    set: RoaringTreemap,
    rows: usize,
) -> impl futures::Stream<Item = Result<Vec<u64>>> + Send {
    let mut ids = set.into_iter();
    futures::stream::iter(std::iter::from_fn(move || {
        let chunk: Vec<u64> = ids.by_ref().take(rows.max(1)).collect();
        (!chunk.is_empty()).then_some(Ok(chunk))
    }))
}
