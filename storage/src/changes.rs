//! The change feed: what was inserted, updated and deleted between two versions, as a stream of rows.
//!
//! ```text
//!   history (what the versions did) ─┐
//!   diff (which rows, which columns) ┴─► deleted rows, as they were ─► new and changed rows, as they are
//! ```
//!
//! A row stands in the feed at most once, with the sum of what happened to it: inserted and then updated
//! is an insert, changed and changed back is nothing. Who applies deletes, inserts and updates by row id
//! to a copy of the older version has the newer one.
//!
//! What always holds: deletes come first, so that a key that was deleted and inserted again can be
//! applied in the order of the feed; the rest comes in the order of row ids; memory is that of `diff.rs`
//! and a few batches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
    new_empty_array, new_null_array,
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use lakebed_core::{Error, Result};
use lance_core::ROW_ID;
use roaring::RoaringTreemap;
use serde_json::json;

use crate::diff::{Diff, RowSets, Verdict, as_type};
use crate::history::History;
use crate::scan::{BatchStream, Projection, ScanSpec};
use crate::snapshot::Snapshot;

/// The columns of a feed that are not the table's, in their order.
pub const CHANGE_COLUMNS: [&str; 6] =
    ["_change", "_rowid", "_commit_version", "_commit_time", "_changed_columns", "_is_backfill"];
/// Where the schema of a feed says which versions it is between.
pub const CHANGES_KEY: &str = "lakebed:changes";

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Insert,
    /// Some of its values are others.
    Update,
    /// It is gone.
    Delete,
}

impl ChangeKind {
    /// As the feed says it.
    pub fn name(self) -> &'static str {
        match self {
            ChangeKind::Insert => "insert",
            ChangeKind::Update => "update",
            ChangeKind::Delete => "delete",
        }
    }
}

/// Which part of the changes to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangesSpec {
    /// Columns to show, in the order of the answer, and to look for changes in; all of the newer version
    /// when absent.
    pub columns: Option<Vec<String>>,
    /// Only these kinds; all when absent.
    pub kinds: Option<Vec<ChangeKind>>,
    /// Whether blob columns show their bytes rather than descriptors.
    pub blob_bytes: bool,
    /// The cursor that the feed is read for, to be named beside its rows.
    pub cursor: Option<String>,
}

impl ChangesSpec {
    fn shows(&self, kind: ChangeKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

impl Snapshot {
    /// The schema of the changes from `begin`, or from the empty table, to this version.
    ///
    /// # Errors
    /// As [`Snapshot::changes`].
    pub fn changes_schema<'a>(
        &'a self,
        begin: Option<&'a Snapshot>,
        spec: &'a ChangesSpec,
    ) -> BoxFuture<'a, Result<SchemaRef>> {
        async move {
            let (diff, _) = settled(begin, self, spec).await?;
            schema_of(self, &diff, spec).await
        }
        .boxed()
    }

    /// The changes from `begin`, or from the empty table, to this version.
    ///
    /// # Errors
    /// `InvalidArgument` when the versions are not of one branch, in the wrong order or too far apart,
    /// and when rows have no stable ids; `NotFound` for a column.
    pub fn changes<'a>(
        &'a self,
        begin: Option<&'a Snapshot>,
        spec: &'a ChangesSpec,
    ) -> BoxFuture<'a, Result<(SchemaRef, BatchStream)>> {
        async move {
            let (diff, history) = settled(begin, self, spec).await?;
            let schema = schema_of(self, &diff, spec).await?;
            let feed =
                Feed { end: self.clone(), schema: Arc::clone(&schema), spec: spec.clone(), diff };
            let batches = futures::stream::once(feed.open(history)).try_flatten();
            Ok((schema, batches.boxed()))
        }
        .boxed()
    }
}

/// The rows that changed between two versions, for who keeps something that is made of them.
pub struct ChangedRows {
    /// The schema of the batches: that of a feed.
    pub schema: SchemaRef,
    /// New and changed rows, as they are in the newer version.
    pub batches: BatchStream,
    /// Rows that are gone; and, once they were in a batch, those that are new or changed.
    pub ids: ChangedIds,
}

/// Ids of rows that changed.
#[derive(Debug, Clone, Default)]
pub struct ChangedIds(Arc<Mutex<RoaringTreemap>>);

impl ChangedIds {
    /// How many.
    pub fn len(&self) -> u64 {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn into_set(self) -> RoaringTreemap {
        std::mem::take(&mut *self.lock())
    }

    fn see(&self, batch: &RecordBatch) {
        let column = batch.column_by_name(ROW_ID);
        if let Some(ids) = column.and_then(|column| column.as_primitive_opt::<UInt64Type>()) {
            self.lock().extend(ids.values().iter().copied());
        }
    }

    fn lock(&self) -> MutexGuard<'_, RoaringTreemap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    /// What changed from `begin` to this version in some columns. Of rows that are gone nothing is read.
    ///
    /// # Errors
    /// As [`Snapshot::changes`].
    pub fn changed_rows<'a>(
        &'a self,
        begin: &'a Snapshot,
        columns: &'a [String],
    ) -> BoxFuture<'a, Result<ChangedRows>> {
        async move {
            let spec = ChangesSpec {
                columns: Some(columns.to_vec()),
                kinds: Some(vec![ChangeKind::Insert, ChangeKind::Update]),
                blob_bytes: true,
                cursor: None,
            };
            let (diff, history) = settled(Some(begin), self, &spec).await?;
            let schema = schema_of(self, &diff, &spec).await?;
            let mut feed = Feed { end: self.clone(), schema: Arc::clone(&schema), spec, diff };
            let (sets, history) = feed.sets(history).await?;
            let ids = ChangedIds(Arc::new(Mutex::new(sets.deleted.clone())));
            let seen = ids.clone();
            let batches = feed.rows_of(sets, history).await?;
            let batches = batches.inspect_ok(move |batch| seen.see(batch)).boxed();
            Ok(ChangedRows { schema, batches, ids })
        }
        .boxed()
    }
}

/// The difference; and what the versions in between did, where the schema of the feed depends on it.
async fn settled(
    begin: Option<&Snapshot>,
    end: &Snapshot,
    spec: &ChangesSpec,
) -> Result<(Diff, Option<History>)> {
    let mut diff = Diff::new(begin, end, spec.columns.as_deref())?;
    if !diff.has_renamed() {
        return Ok((diff, None));
    }
    let history = history_of(begin, end).await?;
    diff.settle(&history);
    Ok((diff, Some(history)))
}

pub(crate) async fn history_of(begin: Option<&Snapshot>, end: &Snapshot) -> Result<History> {
    let fields = begin
        .map(|begin| begin.dataset.schema().fields_pre_order().map(|field| field.id).collect())
        .unwrap_or_default();
    let versions_max = end.table().shared.limits.changes_versions_max;
    History::read(begin.map_or(0, Snapshot::version), &end.dataset, &fields, versions_max).await
}

async fn schema_of(end: &Snapshot, diff: &Diff, spec: &ChangesSpec) -> Result<SchemaRef> {
    let names: Vec<String> = diff.columns().iter().map(|column| column.name.clone()).collect();
    if let Some(taken) = names.iter().find(|name| CHANGE_COLUMNS.contains(&name.as_str())) {
        return Err(Error::invalid(format!(
            "column `{taken}` has the name of a column of the feed; leave it out by `columns`, or \
             rename it"
        )));
    }
    let scan = scan_spec(names, spec);
    let shown = end.scan_schema(&scan).await?;
    let utf8 = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let item = Arc::new(utf8("item", true));
    let [change, row_id, version, time, columns, backfill] = CHANGE_COLUMNS;
    let own = [
        utf8(change, false),
        Field::new(row_id, DataType::UInt64, false),
        Field::new(version, DataType::UInt64, false),
        Field::new(time, micros, true),
        Field::new(columns, DataType::List(item), true),
        Field::new(backfill, DataType::Boolean, false),
    ];
    // A row that was deleted may lack a column that allows no null by now.
    let of_table = shown.fields().iter().map(|field| match field.is_nullable() {
        true => Arc::clone(field),
        false => Arc::new(Field::clone(field).with_nullable(true)),
    });
    let fields: Vec<FieldRef> = own.into_iter().map(Arc::new).chain(of_table).collect();
    let mut metadata = shown.metadata().clone();
    metadata.insert(CHANGES_KEY.to_owned(), about(end, diff, spec));
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}

/// What the schema says about the feed.
fn about(end: &Snapshot, diff: &Diff, spec: &ChangesSpec) -> String {
    let renamed: serde_json::Map<String, serde_json::Value> = diff
        .columns()
        .iter()
        .filter_map(|column| {
            let was = column.was.as_ref().filter(|was| **was != column.name)?;
            Some((column.name.clone(), was.clone().into()))
        })
        .collect();
    let mut about = json!({
        "from": diff.begin().map_or(0, Snapshot::version),
        "to": end.version(),
    });
    if let Some(branch) = end.branch() {
        about["branch"] = branch.into();
    }
    if let Some(cursor) = &spec.cursor {
        about["cursor"] = cursor.clone().into();
    }
    if !renamed.is_empty() {
        about["renamed"] = renamed.into();
    }
    about.to_string()
}

fn scan_spec(names: Vec<String>, spec: &ChangesSpec) -> ScanSpec {
    ScanSpec {
        projection: Projection::Names(names),
        blob_bytes: spec.blob_bytes,
        ..ScanSpec::default()
    }
}

/// A feed that is read.
#[derive(Clone)]
struct Feed {
    end: Snapshot,
    schema: SchemaRef,
    spec: ChangesSpec,
    diff: Diff,
}

/// A few rows of the feed, by id.
enum Step {
    Deleted(Vec<u64>),
    /// With those that were inserted.
    There(Vec<u64>, Arc<RoaringTreemap>),
}

/// What the feed says of one row beside its values.
#[derive(Debug, Clone)]
struct Note {
    kind: ChangeKind,
    row: u64,
    version: u64,
    /// By their place among the columns.
    changed: Vec<usize>,
    is_backfill: bool,
}

impl Feed {
    async fn open(mut self, history: Option<History>) -> Result<BatchStream> {
        let (sets, history) = self.sets(history).await?;
        self.rows_of(sets, history).await
    }

    /// Which rows may differ.
    async fn sets(&mut self, history: Option<History>) -> Result<(RowSets, History)> {
        let history = match history {
            Some(history) => history,
            None => history_of(self.diff.begin(), &self.end).await?,
        };
        self.diff.settle(&history);
        Ok((self.diff.rows(&history).await?, history))
    }

    async fn rows_of(self, sets: RowSets, history: History) -> Result<BatchStream> {
        let rows = usize::try_from(self.diff.batch_rows().await?).unwrap_or(1);
        let (inserts, updates, deletes) = (
            self.spec.shows(ChangeKind::Insert),
            self.spec.shows(ChangeKind::Update),
            self.spec.shows(ChangeKind::Delete),
        );
        let deleted = if deletes { sets.deleted } else { RoaringTreemap::new() };
        let mut there = RoaringTreemap::new();
        if inserts {
            there |= &sets.inserted;
        }
        // A suspect may turn out to be another row under an old id, which is a delete and an insert.
        if updates || inserts || deletes {
            there |= &sets.suspects;
        }
        let inserted = Arc::new(sets.inserted);
        let steps = chunks(deleted, rows).map(Step::Deleted);
        let steps = steps
            .chain(chunks(there, rows).map(move |rows| Step::There(rows, Arc::clone(&inserted))));
        let history = Arc::new(history);
        let batches = futures::stream::iter(steps)
            .then(move |step| {
                let (feed, history) = (self.clone(), Arc::clone(&history));
                async move { feed.step(step, &history).await }
            })
            .try_flatten();
        Ok(batches.boxed())
    }

    async fn step(&self, step: Step, history: &Arc<History>) -> Result<BatchStream> {
        match step {
            Step::Deleted(rows) => {
                let version = history.deleting_version();
                let notes = rows.into_iter().map(|row| Note::deleted(row, version)).collect();
                self.as_they_were(notes, history).await
            }
            Step::There(rows, inserted) => {
                let (news, suspects): (Vec<u64>, Vec<u64>) =
                    rows.into_iter().partition(|row| inserted.contains(*row));
                let mut notes = Vec::with_capacity(news.len() + suspects.len());
                let mut others = Vec::new();
                if !news.is_empty() {
                    for (row, stamp) in news.iter().zip(self.diff.stamps(&news).await?) {
                        notes.push(Note::inserted(*row, history.version_of(stamp)));
                    }
                }
                let verdicts = self.diff.compare(&suspects).await?;
                for (row, (verdict, stamp)) in suspects.into_iter().zip(verdicts) {
                    let version = history.version_of(stamp);
                    match verdict {
                        Verdict::Same => {}
                        Verdict::Changed(changed) => {
                            let fields = changed.iter().map(|at| self.diff.columns()[*at].field);
                            let is_backfill = history.is_backfill(version, fields);
                            let kind = ChangeKind::Update;
                            notes.push(Note { kind, row, version, changed, is_backfill });
                        }
                        Verdict::Other => {
                            others.push(Note::deleted(row, history.deleting_version()));
                            notes.push(Note::inserted(row, version));
                        }
                    }
                }
                notes.retain(|note| self.spec.shows(note.kind));
                others.retain(|note| self.spec.shows(note.kind));
                notes.sort_unstable_by_key(|note| note.row);
                let gone = self.as_they_were(others, history).await?;
                let there = self.as_they_are(notes, history).await?;
                Ok(gone.chain(there).boxed())
            }
        }
    }

    /// Rows of the newer version.
    async fn as_they_are(&self, notes: Vec<Note>, history: &Arc<History>) -> Result<BatchStream> {
        if notes.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let names = self.diff.columns().iter().map(|column| column.name.clone()).collect();
        let scan = scan_spec(names, &self.spec);
        let rows = notes.iter().map(|note| note.row).collect();
        let (_, batches) = Box::pin(self.end.take(&scan, rows)).await?;
        let sources = (0..self.diff.columns().len()).map(Some).collect();
        Ok(self.noted(notes, batches, sources, history))
    }

    /// Rows of the older version, in the columns of the newer one.
    async fn as_they_were(&self, notes: Vec<Note>, history: &Arc<History>) -> Result<BatchStream> {
        let Some(begin) = self.diff.begin().filter(|_| !notes.is_empty()) else {
            return Ok(futures::stream::empty().boxed());
        };
        let mut names = Vec::new();
        let mut sources = Vec::new();
        for column in self.diff.columns() {
            sources.push(column.was.as_ref().map(|was| {
                names.push(was.clone());
                names.len() - 1
            }));
        }
        if names.is_empty() {
            let nothing: Vec<ArrayRef> = Vec::new();
            return Ok(
                futures::stream::iter([self.batch(&notes, &nothing, &sources, history)]).boxed()
            );
        }
        let scan = scan_spec(names, &self.spec);
        let rows = notes.iter().map(|note| note.row).collect();
        let (_, batches) = Box::pin(begin.take(&scan, rows)).await?;
        Ok(self.noted(notes, batches, sources, history))
    }

    /// Batches with their notes; the rows come in the order of the notes. `sources` are the places of the
    /// feed's columns in the batches.
    fn noted(
        &self,
        notes: Vec<Note>,
        batches: BatchStream,
        sources: Vec<Option<usize>>,
        history: &Arc<History>,
    ) -> BatchStream {
        let (feed, history) = (self.clone(), Arc::clone(history));
        let mut next = 0;
        batches
            .map(move |batch| {
                let batch = batch?;
                let end = next + batch.num_rows();
                let notes = notes.get(next..end);
                let notes = notes.ok_or_else(|| Error::internal("a take gave too many rows"))?;
                next = end;
                feed.batch(notes, batch.columns(), &sources, &history)
            })
            .boxed()
    }

    fn batch(
        &self,
        notes: &[Note],
        columns: &[ArrayRef],
        sources: &[Option<usize>],
        history: &History,
    ) -> Result<RecordBatch> {
        let kinds: StringArray = notes.iter().map(|note| Some(note.kind.name())).collect();
        let rows: UInt64Array = notes.iter().map(|note| note.row).collect();
        let versions: UInt64Array = notes.iter().map(|note| note.version).collect();
        let times: TimestampMicrosecondArray = notes
            .iter()
            .map(|note| history.committed_at(note.version).map(|time| time.timestamp_micros()))
            .collect();
        let mut changed = ListBuilder::new(StringBuilder::new());
        for note in notes {
            for at in &note.changed {
                changed.values().append_value(&self.diff.columns()[*at].name);
            }
            changed.append(note.kind == ChangeKind::Update);
        }
        let backfills: BooleanArray = notes.iter().map(|note| Some(note.is_backfill)).collect();
        let mut all: Vec<ArrayRef> = vec![
            Arc::new(kinds),
            Arc::new(rows),
            Arc::new(versions),
            Arc::new(times.with_timezone("UTC")),
            Arc::new(changed.finish()),
            Arc::new(backfills),
        ];
        let fields = self.schema.fields().iter().skip(CHANGE_COLUMNS.len());
        for (field, source) in fields.zip(sources) {
            let column = source.and_then(|at| columns.get(at));
            let like = new_empty_array(field.data_type());
            let column = column.and_then(|column| as_type(column, &like));
            // What was deleted had no such column, or one of another nature.
            all.push(column.unwrap_or_else(|| new_null_array(field.data_type(), notes.len())));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), all)
            .map_err(|error| Error::internal("rows of a feed do not fit").with_source(error))
    }
}

impl Note {
    fn inserted(row: u64, version: u64) -> Note {
        let kind = ChangeKind::Insert;
        Note { kind, row, version, changed: Vec::new(), is_backfill: false }
    }

    fn deleted(row: u64, version: u64) -> Note {
        Note { kind: ChangeKind::Delete, ..Note::inserted(row, version) }
    }
}

/// The ids of a set in ascending order, up to `rows` at a time.
fn chunks(set: RoaringTreemap, rows: usize) -> impl Iterator<Item = Vec<u64>> + Send {
    let mut ids = set.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<u64> = ids.by_ref().take(rows.max(1)).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests;
