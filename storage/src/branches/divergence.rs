//! How a branch and its parent came apart since the branch began, and where they contradict each other.
//!
//! ```text
//!                  ┌─► parent: inserted, updated by column, deleted ─┐
//!   begin of branch┤                                                 ├─► conflicts
//!                  └─► branch: inserted, updated by column, deleted ─┘
//! ```
//!
//! Rows are told apart by their stable ids, which both sides share for the rows that were there when the
//! branch began. It is a conflict when both gave one cell different values, when one changed a row that
//! the other deleted, and when both brought a row of one key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use lakebed_core::{BranchName, Error, Result, Subject};
use lance_core::datatypes::Field;
use roaring::RoaringTreemap;

use super::side::{Reshaped, Side, chunks, shape};
use crate::changes::ChangeKind;
use crate::diff::{as_type, differing_rows, named, take};
use crate::expressions::holds_blob;
use crate::scan::{BATCH_BYTES, Projection, ScanSpec};
use crate::snapshot::{At, Snapshot};
use crate::table::Table;

/// Rows of one batch that is compared.
const ROWS_MAX: u64 = 4_096;
/// Characters of a value in a sample.
const VALUE_CHARS_MAX: usize = 200;

/// Rows by what happened to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// New rows.
    pub inserted: u64,
    /// Rows with another value in some column.
    pub updated: u64,
    /// Rows that are gone.
    pub deleted: u64,
}

/// A column that is not on both sides what it was when the branch began. A type is missing where the
/// column is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnChange {
    /// Its name: the one that it had, where it was there.
    pub name: String,
    /// Its type when the branch began.
    pub was: Option<String>,
    /// Its type on the parent.
    pub parent: Option<String>,
    /// Its type on the branch.
    pub branch: Option<String>,
    /// Whether it allows null on the parent.
    pub nullable_on_parent: bool,
    /// Whether it allows null on the branch.
    pub nullable_on_branch: bool,
}

/// A row that the branch changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// How.
    pub kind: ChangeKind,
    /// Its stable row id; that of a new row counts on the branch only.
    pub row_id: u64,
    /// The columns, for an update.
    pub columns: Vec<String>,
}

/// How two sides contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Both gave a cell another value.
    Cell,
    /// The branch changed a row that the parent deleted.
    DeletedOnParent,
    /// The branch deleted a row that the parent changed.
    DeletedOnBranch,
    /// Both have a row of one key, and the branch brought its own.
    Key,
    /// The branch changed a column itself, or values of one that the parent changed.
    Column,
}

impl ConflictKind {
    /// Its stable snake_case name.
    pub fn name(self) -> &'static str {
        match self {
            ConflictKind::Cell => "cell",
            ConflictKind::DeletedOnParent => "deleted_on_parent",
            ConflictKind::DeletedOnBranch => "deleted_on_branch",
            ConflictKind::Key => "key",
            ConflictKind::Column => "column",
        }
    }
}

/// One contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchConflict {
    /// Of what kind.
    pub kind: ConflictKind,
    /// The row's stable id; on the branch for a key.
    pub row_id: Option<u64>,
    /// The column.
    pub column: Option<String>,
    /// The value on the parent as text, where it is a cell.
    pub parent: Option<String>,
    /// The value on the branch as text, where it is a cell.
    pub branch: Option<String>,
    /// What is wrong, for a column.
    pub message: Option<String>,
}

impl BranchConflict {
    fn row(kind: ConflictKind, row: u64) -> Self {
        let (column, parent, branch, message) = (None, None, None, None);
        BranchConflict { kind, row_id: Some(row), column, parent, branch, message }
    }

    fn column(name: &str, message: String) -> Self {
        BranchConflict {
            kind: ConflictKind::Column,
            row_id: None,
            column: Some(name.to_owned()),
            parent: None,
            branch: None,
            message: Some(message),
        }
    }
}

/// How a branch differs from its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchDiff {
    /// The branch that the branch began on; main when absent.
    pub parent: Option<String>,
    /// The version that the branch began with.
    pub begin_version: u64,
    /// The newest version of the parent.
    pub parent_version: u64,
    /// The newest version of the branch.
    pub branch_version: u64,
    /// Rows of the parent.
    pub parent_rows: u64,
    /// Rows of the branch.
    pub branch_rows: u64,
    /// What the parent did since; a merge, which does not look at all of it, leaves it out.
    pub parent_changes: Option<RowCounts>,
    /// What the branch did since.
    pub branch_changes: RowCounts,
    /// Rows that the branch updated, by column.
    pub updated_columns: BTreeMap<String, u64>,
    /// Columns that are not what they were.
    pub columns: Vec<ColumnChange>,
    /// Some of the rows that the branch changed.
    pub samples: Vec<RowChange>,
    /// Contradictions, by kind.
    pub conflicts: BTreeMap<ConflictKind, u64>,
    /// Some of them.
    pub conflict_samples: Vec<BranchConflict>,
}

impl Table {
    /// How a branch and its parent differ, each from what the branch began with. Up to `samples` changed
    /// rows and conflicts are named.
    ///
    /// # Errors
    /// `NotFound` for the branch; `InvalidArgument` when rows have no stable ids, or when one side has
    /// more versions than are looked at.
    pub fn diff_branch<'a>(
        self: &'a Arc<Self>,
        name: &'a BranchName,
        samples: usize,
    ) -> BoxFuture<'a, Result<BranchDiff>> {
        async move {
            let apart = Divergence::read(self, name, None, true).await?;
            apart.shown(samples).await
        }
        .boxed()
    }
}

/// Both sides of a branch.
#[derive(Debug)]
pub(super) struct Divergence {
    pub(super) parent: Option<String>,
    /// What tells the branch from others of its name.
    pub(super) identity: String,
    pub(super) ours: Side,
    pub(super) theirs: Side,
    /// Cells that both changed to different values, by the name at the beginning.
    pub(super) cells: BTreeMap<String, RoaringTreemap>,
    /// Rows that the branch changed and the parent deleted.
    pub(super) deleted_on_parent: RoaringTreemap,
    /// Rows that the branch deleted and the parent changed.
    pub(super) deleted_on_branch: RoaringTreemap,
    /// New rows of the branch whose key the parent has, with the rows of the parent.
    pub(super) keys: BTreeMap<u64, u64>,
    /// What cannot be merged of columns.
    pub(super) columns: Vec<BranchConflict>,
    is_whole: bool,
}

impl Divergence {
    /// Compares a branch with its parent, new rows by the key columns `on` where they are given. With
    /// `is_whole` all changes of the parent are told, and else those that matter to a merge.
    pub(super) async fn read(
        table: &Arc<Table>,
        name: &BranchName,
        on: Option<&[String]>,
        is_whole: bool,
    ) -> Result<Divergence> {
        let latest = table.branch(None).await?.latest().await?;
        let Some(record) = super::record_of(&latest, name.as_str()).await? else {
            return Err(table.unknown_branch(name.as_str()).await);
        };
        let (parent, begin) = (record.parent_branch, record.parent_version);
        let tip = table.snapshot(Some(name.as_str()), &At::Latest).await?;
        let base = table.snapshot(Some(name.as_str()), &At::Version(begin)).await?;
        let parent_tip = table.snapshot(parent.as_deref(), &At::Latest).await?;
        let parent_base = table.snapshot(parent.as_deref(), &At::Version(begin)).await?;
        let theirs = Side::read(&base, &tip, None).await?;
        let matters = match is_whole {
            true => None,
            false => Some(theirs.updated_rows() | &theirs.deleted),
        };
        let ours = Side::read(&parent_base, &parent_tip, matters.as_ref()).await?;
        let identity = record.identifier.version_mapping.last().map(|(_, id)| id.clone());
        let mut apart = Divergence {
            parent,
            identity: identity.unwrap_or_default(),
            cells: BTreeMap::new(),
            deleted_on_parent: theirs.updated_rows() & &ours.deleted,
            deleted_on_branch: &theirs.deleted & ours.updated_rows(),
            keys: BTreeMap::new(),
            columns: Vec::new(),
            is_whole,
            ours,
            theirs,
        };
        apart.columns = apart.column_conflicts();
        apart.find_cells().await?;
        let keys = match on {
            Some(on) => on.to_vec(),
            None => primary_key(&apart.ours.tip),
        };
        if !keys.is_empty() && !apart.theirs.inserted.is_empty() {
            apart.keys = super::patch::same_keys(&apart.ours.tip, &apart.theirs, &keys).await?;
            // A row that the branch deleted and brought anew is its own.
            let deleted = &apart.theirs.deleted;
            apart.keys.retain(|_, row| !deleted.contains(*row));
        }
        Ok(apart)
    }

    fn column_conflicts(&self) -> Vec<BranchConflict> {
        let (ours, theirs) = (&self.ours, &self.theirs);
        let mut found = Vec::new();
        let mut add = |name: &str, message: &str| {
            found.push(BranchConflict::column(name, message.to_owned()));
        };
        for (name, how) in &theirs.reshaped {
            let both = ours.reshaped.get(name) == Some(how);
            let same_type = field(&ours.tip, ours.name_at_tip(name)).map(shape)
                == field(&theirs.tip, theirs.name_at_tip(name)).map(shape);
            match how {
                Reshaped::Added if field(&ours.tip, Some(name)).is_none() => {
                    let added = field(&theirs.tip, Some(name));
                    if added.is_some_and(|added| !added.nullable) {
                        add(name, "the branch added it without allowing null");
                    }
                }
                Reshaped::Added if same_type => {}
                Reshaped::Added => add(name, "both added it, with different types"),
                _ if both && same_type => {}
                Reshaped::Dropped => {
                    add(name, "the branch dropped it; drop it on the parent first")
                }
                Reshaped::Renamed(_) => {
                    add(name, "the branch renamed it; rename it on the parent first");
                }
                Reshaped::Retyped => {
                    add(name, "the branch gave it another type; do so on the parent first");
                }
            }
        }
        for name in theirs.updated.keys() {
            if theirs.reshaped.get(name) == Some(&Reshaped::Added) {
                continue;
            }
            match ours.reshaped.get(name) {
                Some(Reshaped::Dropped) => {
                    add(name, "the branch changed values of it, and the parent dropped it");
                }
                Some(Reshaped::Retyped) if !theirs.reshaped.contains_key(name) => {
                    add(name, "the branch changed values of it, and the parent its type");
                }
                _ => {}
            }
        }
        found
    }

    /// Where the parent has a column of the branch, and under which name.
    pub(super) fn name_on_parent<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self.theirs.reshaped.get(name) {
            Some(Reshaped::Added) => field(&self.ours.tip, Some(name)).map(|_| name),
            _ => self.ours.name_at_tip(name),
        }
    }

    async fn find_cells(&mut self) -> Result<()> {
        let mut found = BTreeMap::new();
        for (name, theirs) in &self.theirs.updated {
            let Some(ours) = self.ours.updated.get(name) else { continue };
            let both = ours & theirs;
            if both.is_empty() || self.columns.iter().any(|it| it.column.as_ref() == Some(name)) {
                continue;
            }
            let differing = self.differing(name, both).await?;
            if !differing.is_empty() {
                found.insert(name.clone(), differing);
            }
        }
        self.cells = found;
        Ok(())
    }

    /// Those of the rows in which the two sides have different values of a column.
    async fn differing(&self, name: &str, rows: RoaringTreemap) -> Result<RoaringTreemap> {
        let names = (self.ours.name_at_tip(name), self.theirs.name_at_tip(name));
        let (Some(our_name), Some(their_name)) = names else { return Ok(rows) };
        // Their places say nothing about their bytes.
        if field(&self.ours.tip, Some(our_name)).is_some_and(holds_blob) {
            return Ok(rows);
        }
        let spec = ScanSpec {
            projection: Projection::Names(vec![our_name.to_owned()]),
            ..ScanSpec::default()
        };
        let step = self.ours.tip.rows_of(&spec, BATCH_BYTES, ROWS_MAX).await?;
        let mut found = RoaringTreemap::new();
        let mut chunks = std::pin::pin!(chunks(rows, usize::try_from(step).unwrap_or(1)));
        while let Some(rows) = chunks.try_next().await? {
            let ours = take(&self.ours.tip.dataset, &[our_name], &rows).await?;
            let theirs = take(&self.theirs.tip.dataset, &[their_name], &rows).await?;
            let (ours, theirs) = (named(&ours, our_name)?, named(&theirs, their_name)?);
            let mut differs = vec![false; rows.len()];
            match as_type(theirs, ours) {
                Some(theirs) => differing_rows(&theirs, ours, 0, rows.len(), &mut differs),
                None => differs.fill(true),
            }
            found.extend(rows.iter().zip(differs).filter(|(_, it)| *it).map(|(row, _)| *row));
        }
        Ok(found)
    }

    /// Contradictions, by kind.
    pub(super) fn counts(&self) -> BTreeMap<ConflictKind, u64> {
        let cells = self.cells.values().map(RoaringTreemap::len).sum();
        let counts = [
            (ConflictKind::Cell, cells),
            (ConflictKind::DeletedOnParent, self.deleted_on_parent.len()),
            (ConflictKind::DeletedOnBranch, self.deleted_on_branch.len()),
            (ConflictKind::Key, self.keys.len() as u64),
            (ConflictKind::Column, self.columns.len() as u64),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The difference with some examples.
    pub(super) async fn shown(&self, samples: usize) -> Result<BranchDiff> {
        let rows = async |snapshot: &Snapshot| {
            let rows = snapshot.dataset.count_rows(None).await;
            rows.map(|rows| rows as u64).map_err(crate::lance_error::from_lance)
        };
        Ok(BranchDiff {
            parent: self.parent.clone(),
            begin_version: self.theirs.base.version(),
            parent_version: self.ours.tip.version(),
            branch_version: self.theirs.tip.version(),
            parent_rows: rows(&self.ours.tip).await?,
            branch_rows: rows(&self.theirs.tip).await?,
            parent_changes: self.is_whole.then(|| counts_of(&self.ours)),
            branch_changes: counts_of(&self.theirs),
            updated_columns: self
                .theirs
                .updated
                .iter()
                .map(|(name, rows)| (name.clone(), rows.len()))
                .collect(),
            columns: self.column_changes(),
            samples: self.row_samples(samples),
            conflicts: self.counts(),
            conflict_samples: self.conflict_samples(samples).await?,
        })
    }

    fn column_changes(&self) -> Vec<ColumnChange> {
        let (ours, theirs) = (&self.ours, &self.theirs);
        let mut names: Vec<&String> = ours.reshaped.keys().chain(theirs.reshaped.keys()).collect();
        names.sort();
        names.dedup();
        let type_of = |field: Option<&Field>| field.map(|field| field.data_type().to_string());
        names
            .into_iter()
            .map(|name| {
                let was = theirs.reshaped.get(name).or_else(|| ours.reshaped.get(name));
                let is_new = was == Some(&Reshaped::Added);
                let on_parent = field(&ours.tip, ours.name_at_tip(name));
                let on_branch = field(&theirs.tip, theirs.name_at_tip(name));
                ColumnChange {
                    name: name.clone(),
                    was: type_of(field(&theirs.base, Some(name)).filter(|_| !is_new)),
                    parent: type_of(on_parent),
                    branch: type_of(on_branch),
                    nullable_on_parent: on_parent.is_none_or(|field| field.nullable),
                    nullable_on_branch: on_branch.is_none_or(|field| field.nullable),
                }
            })
            .collect()
    }

    fn row_samples(&self, samples: usize) -> Vec<RowChange> {
        let theirs = &self.theirs;
        let plain = |kind| move |row_id| RowChange { kind, row_id, columns: Vec::new() };
        let updated = theirs.updated_rows().into_iter().map(|row_id| {
            let columns = theirs.updated.iter().filter(|(_, rows)| rows.contains(row_id));
            RowChange {
                kind: ChangeKind::Update,
                row_id,
                columns: columns.map(|(name, _)| name.clone()).collect(),
            }
        });
        // Some of each kind, so that many of one do not hide the others.
        let of_kind = samples.div_ceil(3);
        let deleted = theirs.deleted.iter().map(plain(ChangeKind::Delete)).take(of_kind);
        let inserted = theirs.inserted.iter().map(plain(ChangeKind::Insert)).take(of_kind);
        deleted.chain(updated.take(of_kind)).chain(inserted).take(samples).collect()
    }

    async fn conflict_samples(&self, samples: usize) -> Result<Vec<BranchConflict>> {
        let mut found: Vec<BranchConflict> = self.columns.iter().take(samples).cloned().collect();
        for (name, rows) in &self.cells {
            let rows: Vec<u64> = rows.iter().take(samples.saturating_sub(found.len())).collect();
            found.extend(self.cell_samples(name, &rows).await?);
        }
        let kinds = [
            (ConflictKind::DeletedOnParent, &self.deleted_on_parent),
            (ConflictKind::DeletedOnBranch, &self.deleted_on_branch),
        ];
        for (kind, rows) in kinds {
            found.extend(rows.iter().take(samples).map(|row| BranchConflict::row(kind, row)));
        }
        let keys = self.keys.keys().take(samples);
        found.extend(keys.map(|row| BranchConflict::row(ConflictKind::Key, *row)));
        found.truncate(samples);
        Ok(found)
    }

    async fn cell_samples(&self, name: &str, rows: &[u64]) -> Result<Vec<BranchConflict>> {
        let names = (self.ours.name_at_tip(name), self.theirs.name_at_tip(name));
        let (Some(our_name), Some(their_name)) = names else { return Ok(Vec::new()) };
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ours = take(&self.ours.tip.dataset, &[our_name], rows).await?;
        let theirs = take(&self.theirs.tip.dataset, &[their_name], rows).await?;
        let ours = texts(named(&ours, our_name)?, field(&self.ours.tip, Some(our_name)))?;
        let theirs = texts(named(&theirs, their_name)?, field(&self.theirs.tip, Some(their_name)))?;
        let values = rows.iter().zip(ours.into_iter().zip(theirs));
        Ok(values
            .map(|(row, (parent, branch))| BranchConflict {
                column: Some(name.to_owned()),
                parent,
                branch,
                ..BranchConflict::row(ConflictKind::Cell, *row)
            })
            .collect())
    }
}

fn counts_of(side: &Side) -> RowCounts {
    RowCounts {
        inserted: side.inserted.len(),
        updated: side.updated_rows().len(),
        deleted: side.deleted.len(),
    }
}

/// The columns that tell a table's rows apart, where it says so.
fn primary_key(snapshot: &Snapshot) -> Vec<String> {
    let fields = snapshot.dataset.schema().unenforced_primary_key();
    fields.into_iter().map(|field| field.name.clone()).collect()
}

pub(super) fn field<'a>(snapshot: &'a Snapshot, name: Option<&str>) -> Option<&'a Field> {
    let fields = &snapshot.dataset.schema().fields;
    name.and_then(|name| fields.iter().find(|field| field.name == name))
}

/// Values as text; nothing for null and for blobs.
fn texts(column: &ArrayRef, field: Option<&Field>) -> Result<Vec<Option<String>>> {
    if field.is_some_and(holds_blob) {
        return Ok(vec![None; column.len()]);
    }
    let options = FormatOptions::default().with_display_error(true);
    let shown = ArrayFormatter::try_new(column.as_ref(), &options).map_err(|error| {
        Error::internal("values of a column cannot be shown").with_source(error)
    })?;
    let text = |row: usize| shown.value(row).to_string().chars().take(VALUE_CHARS_MAX).collect();
    Ok((0..column.len()).map(|row| column.is_valid(row).then(|| text(row))).collect())
}

/// What was asked of a branch that is not there any more.
pub(super) fn branch_error(message: String) -> Error {
    Error::new(lakebed_core::ErrorKind::Conflict, message).about(Subject::Branch)
}
