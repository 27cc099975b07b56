//! Every feed is checked against the two versions as they are: applied to a copy of the older one it has
//! to give the newer one, and it may name no row and no column whose values are the same.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, Float64Array, Int32Array, Int64Array, LargeBinaryArray, StructArray};
use lakebed_core::ErrorKind;

use super::*;
use crate::schema::BLOB_METADATA;
use crate::test_lake::{id, lake};
use crate::{
    At, ColumnAlteration, FragmentValues, Lake, MergeRule, Pace, Prepared, ScanSpec, Table,
    WriteOptions,
};

struct Place {
    lake: Arc<Lake>,
    table: Arc<Table>,
    _folder: tempfile::TempDir,
}

fn options() -> WriteOptions {
    WriteOptions { write_id: None, mode: String::new(), schema_digest: String::new() }
}

fn stream(batch: &RecordBatch) -> (SchemaRef, BatchStream) {
    (batch.schema(), futures::stream::iter([Ok(batch.clone())]).boxed())
}

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
    let n: ArrayRef = Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| id as i32)));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(ids.map(|id| format!("t{id}"))));
    RecordBatch::try_from_iter_with_nullable([
        ("id", id, true),
        ("n", n, true),
        ("text", text, true),
    ])
    .unwrap()
}

async fn place(batch: &RecordBatch) -> Place {
    let (lake, folder) = lake().await;
    let (schema, batches) = stream(batch);
    lake.create_table(&id("t"), schema, batches, options()).await.unwrap();
    let table = lake.table(&id("t")).await.unwrap();
    Place { lake, table, _folder: folder }
}

/// The cells of a row as text, by name and type of their column; blobs by their bytes.
type Row = BTreeMap<(String, String), String>;

fn cells(batch: &RecordBatch, row: usize, columns: std::ops::Range<usize>) -> Row {
    let schema = batch.schema();
    let cell = |at: usize| {
        let field = schema.field(at);
        let key = (field.name().clone(), field.data_type().to_string());
        (key, text(batch.column(at), row))
    };
    columns.map(cell).collect()
}

fn text(column: &ArrayRef, row: usize) -> String {
    format!("{:?}", column.slice(row, 1))
}

impl Place {
    async fn append(&self, batch: &RecordBatch) {
        let (schema, batches) = stream(batch);
        self.table.append(None, schema, batches, options()).await.unwrap();
    }

    async fn upsert(&self, batch: &RecordBatch) {
        let (schema, batches) = stream(batch);
        let on = ["id".to_owned()];
        let rule = MergeRule::upsert();
        let prepared =
            self.table.prepare_upsert(None, &on, rule, schema, batches, options()).await.unwrap();
        let Prepared::Ready(prepared) = prepared else { panic!("a repeat") };
        prepared.commit().await.unwrap();
    }

    async fn update(&self, filter: &str, column: &str, sql: &str) {
        let updates = [(column.to_owned(), sql.to_owned())];
        self.table.update_rows(None, Some(filter), &updates).await.unwrap();
    }

    async fn delete(&self, filter: &str) {
        self.table.delete_rows(None, filter).await.unwrap();
    }

    async fn compact(&self) {
        let snapshot = self.at(None).await;
        let fragments = snapshot.dataset.fragments().iter().map(|fragment| fragment.id as u32);
        let fragments: Vec<u32> = fragments.collect();
        self.table
            .rewrite_fragments(None, &fragments, 0, &mut Pace::at_once().turn())
            .await
            .unwrap()
            .unwrap();
    }

    async fn at(&self, version: Option<u64>) -> Snapshot {
        let at = version.map_or(At::Latest, At::Version);
        self.table.snapshot(None, &at).await.unwrap()
    }

    async fn latest(&self) -> u64 {
        self.at(None).await.version()
    }

    async fn feed(&self, from: u64, to: u64, spec: &ChangesSpec) -> Result<Vec<RecordBatch>> {
        let begin = match from {
            0 => None,
            from => Some(self.at(Some(from)).await),
        };
        let (schema, batches) = self.at(Some(to)).await.changes(begin.as_ref(), spec).await?;
        let batches: Vec<RecordBatch> = batches.try_collect().await?;
        assert!(batches.iter().all(|batch| batch.schema() == schema));
        Ok(batches)
    }

    /// Rows by row id, in the columns of `names` where the version has them.
    async fn rows_of(&self, version: u64) -> BTreeMap<u64, Row> {
        let mut found = BTreeMap::new();
        if version == 0 {
            return found;
        }
        let snapshot = self.at(Some(version)).await;
        let mut names: Vec<String> =
            snapshot.schema().fields().iter().map(|field| field.name().clone()).collect();
        names.push("_rowid".to_owned());
        let projection = Projection::Names(names);
        let spec = ScanSpec { projection, blob_bytes: true, ..ScanSpec::default() };
        let (_, batches) = snapshot.scan(&spec).await.unwrap();
        let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
        for batch in batches {
            let ids = batch.column_by_name("_rowid").unwrap().as_primitive::<UInt64Type>().clone();
            for row in 0..batch.num_rows() {
                // The row id is the last column.
                let cells = cells(&batch, row, 0..batch.num_columns() - 1);
                found.insert(ids.value(row), cells);
            }
        }
        found
    }

    /// Checks the feed between two versions, and says how many rows of it are inserts, updates, deletes.
    async fn check(&self, from: u64, to: u64) -> (usize, usize, usize) {
        let spec = ChangesSpec { blob_bytes: true, ..ChangesSpec::default() };
        let batches = self.feed(from, to, &spec).await.unwrap();
        let (old, new) = (self.rows_of(from).await, self.rows_of(to).await);
        let mut copy = old.clone();
        let mut counts = (0, 0, 0);
        let mut seen = std::collections::HashSet::new();
        for batch in &batches {
            let kinds = batch.column(0).as_string::<i32>();
            let ids = batch.column(1).as_primitive::<UInt64Type>();
            let versions = batch.column(2).as_primitive::<UInt64Type>();
            let changed = batch.column(4).as_list::<i32>();
            for row in 0..batch.num_rows() {
                let id = ids.value(row);
                let at = format!("row {id} from {from} to {to}");
                assert!(seen.insert((id, kinds.value(row).to_owned())), "{at} comes twice");
                assert!((from + 1..=to).contains(&versions.value(row)), "{at}");
                assert!(batch.column(3).is_valid(row), "{at}: no time");
                let cells = cells(batch, row, 6..batch.num_columns());
                match kinds.value(row) {
                    "insert" => {
                        counts.0 += 1;
                        assert!(changed.is_null(row));
                        assert!(copy.insert(id, cells).is_none(), "{at} was there");
                    }
                    "delete" => {
                        counts.2 += 1;
                        let was = copy.remove(&id).unwrap_or_else(|| panic!("{at} was not there"));
                        for (column, value) in &cells {
                            if let Some(was) = was.get(column) {
                                assert_eq!(was, value, "{at}: {column:?}");
                            }
                        }
                    }
                    kind => {
                        assert_eq!(kind, "update");
                        counts.1 += 1;
                        let names = changed.value(row);
                        let names: Vec<&str> = names.as_string::<i32>().iter().flatten().collect();
                        assert!(!names.is_empty(), "{at}: nothing changed");
                        for (column, value) in &cells {
                            // Only of a column of one name and type can be said what it was.
                            let Some(was) = old[&id].get(column) else { continue };
                            if !names.contains(&column.0.as_str()) {
                                assert_eq!(was, value, "{at}: {column:?} is not named");
                            // A blob may have been written again as it was.
                            } else if column.0 != "data" {
                                assert_ne!(was, value, "{at}: {column:?}");
                            }
                        }
                        copy.insert(id, cells);
                    }
                }
            }
        }
        // Columns that only the newer version has are null in rows that did not change.
        let wanted: Vec<u64> = new.keys().copied().collect();
        assert_eq!(copy.keys().copied().collect::<Vec<_>>(), wanted, "from {from} to {to}");
        for (id, cells) in &new {
            for (column, value) in cells {
                if let Some(copied) = copy[id].get(column) {
                    assert_eq!(copied, value, "row {id} from {from} to {to}: {column:?}");
                }
            }
        }
        counts
    }

    async fn check_all(&self) {
        let latest = self.latest().await;
        for to in 1..=latest {
            for from in 0..=to {
                self.check(from, to).await;
            }
        }
    }

    /// The columns that the feed says changed, by `id`.
    async fn changed(&self, from: u64, to: u64) -> BTreeMap<i64, (Vec<String>, bool)> {
        let mut found = BTreeMap::new();
        for batch in self.feed(from, to, &ChangesSpec::default()).await.unwrap() {
            let ids = batch.column_by_name("id").unwrap();
            let ids = ids.as_primitive::<arrow_array::types::Int64Type>();
            let changed = batch.column(4).as_list::<i32>();
            for row in (0..batch.num_rows()).filter(|row| changed.is_valid(*row)) {
                let names = changed.value(row);
                let names = names.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
                let is_backfill = batch.column(5).as_boolean().value(row);
                found.insert(ids.value(row), (names, is_backfill));
            }
        }
        found
    }
}

fn names(names: &[&str], is_backfill: bool) -> (Vec<String>, bool) {
    (names.iter().map(|name| (*name).to_owned()).collect(), is_backfill)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_between_any_two_versions() {
    let place = place(&rows(0..50)).await;
    place.append(&rows(50..80)).await;
    place.upsert(&rows(70..90)).await; // 70..80 are written again with the same values
    let partial = rows(0..5);
    let n: ArrayRef = Arc::new(Int32Array::from(vec![100, 1, 102, 3, 104]));
    let partial =
        RecordBatch::try_from_iter([("id", partial.column(0).clone()), ("n", n)]).unwrap();
    place.upsert(&partial).await;
    place.update("id >= 60 AND id < 65", "text", "'new'").await;
    place.delete("id % 10 = 3").await;
    place.compact().await;
    place.append(&rows(90..95)).await;
    place.update("id = 92", "n", "NULL").await;
    place.compact().await;
    place.check_all().await;

    assert_eq!(place.check(1, 2).await, (30, 0, 0));
    assert_eq!(place.check(2, 3).await, (10, 0, 0), "what is the same is no update");
    assert_eq!(place.check(3, 4).await, (0, 3, 0));
    assert_eq!(place.changed(3, 4).await[&2], names(&["n"], false));
    assert_eq!(place.check(4, 5).await, (0, 5, 0));
    assert_eq!(place.check(5, 6).await.2, 9);
    let (before, latest) = (6, place.latest().await);
    assert_eq!(place.check(before, before + 1).await, (0, 0, 0), "a compacted row is not changed");
    assert_eq!(place.check(latest - 1, latest).await, (0, 0, 0));
    assert_eq!(place.check(latest, latest).await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_inserted_again_is_a_delete_and_an_insert() {
    let place = place(&rows(0..4)).await;
    place.delete("id = 2").await;
    place.append(&rows(2..3)).await;
    assert_eq!(place.check(1, 3).await, (1, 0, 1));
    let batches = place.feed(1, 3, &ChangesSpec::default()).await.unwrap();
    let kinds: Vec<String> = batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(0)
                .as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(kinds, ["delete", "insert"]);
    let versions = batches
        .iter()
        .flat_map(|batch| batch.column(2).as_primitive::<UInt64Type>().values().to_vec());
    assert_eq!(versions.collect::<Vec<_>>(), [2, 3], "by whom it was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn overwritten_and_restored() {
    let place = place(&rows(0..10)).await; // 1
    place.update("id < 3", "n", "n + 1").await; // 2
    place.delete("id = 9").await; // 3
    place.append(&rows(20..22)).await; // 4
    place.table.restore(None, 1).await.unwrap(); // 5
    place.append(&rows(30..33)).await; // 6
    place.update("id = 30", "n", "0").await; // 7
    let (schema, batches) = stream(&rows(0..5));
    place.table.overwrite(None, schema, batches, options()).await.unwrap(); // 8
    place.table.restore(None, 4).await.unwrap(); // 9
    place.update("id = 20", "text", "'late'").await; // 10
    place.compact().await; // 11
    place.check_all().await;
    assert_eq!(
        place.check(4, 5).await,
        (1, 3, 2),
        "the row is back, and what was changed and added"
    );
    assert_eq!(place.check(1, 5).await, (0, 0, 0));
    assert_eq!(place.check(7, 8).await, (5, 0, 13));
    assert_eq!(place.check(4, 9).await, (0, 0, 0));
    assert_eq!(place.check(4, 10).await, (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_go_and_change_their_names() {
    let place = place(&rows(0..6)).await; // 1
    let doubled = [("twice".to_owned(), "nullif(n, 2) * 2".to_owned())];
    place.table.add_sql_columns(None, &doubled).await.unwrap(); // 2
    let added = Arc::new(Schema::new(vec![Field::new("later", DataType::Float64, true)]));
    place.table.add_null_columns(None, added).await.unwrap(); // 3
    let rename = ColumnAlteration {
        path: "text".to_owned(),
        rename: Some("words".to_owned()),
        data_type: None,
        nullable: None,
    };
    place.table.alter_columns(None, &[rename]).await.unwrap(); // 4
    place.update("id = 1", "words", "'other'").await; // 5
    let wider = ColumnAlteration {
        path: "n".to_owned(),
        rename: None,
        data_type: Some(DataType::Int64),
        nullable: None,
    };
    place.table.alter_columns(None, &[wider]).await.unwrap(); // 6
    place.table.drop_columns(None, &["twice".to_owned()]).await.unwrap(); // 7
    place.delete("id = 0").await; // 8

    assert_eq!(place.check(1, 2).await, (0, 5, 0), "null is what it was before");
    assert_eq!(place.changed(1, 2).await[&3], names(&["twice"], true));
    assert_eq!(place.check(2, 3).await, (0, 0, 0));
    assert_eq!(place.check(3, 4).await, (0, 0, 0));
    assert_eq!(place.changed(3, 5).await, BTreeMap::from([(1, names(&["words"], false))]));
    let changed = place.changed(5, 6).await;
    assert!(changed.is_empty(), "a wider type has the same values: {changed:?}");
    assert_eq!(place.check(6, 7).await, (0, 0, 0));
    let batches = place.feed(1, 8, &ChangesSpec::default()).await.unwrap();
    let about = &batches[0].schema().metadata()[CHANGES_KEY].clone();
    let about: serde_json::Value = serde_json::from_str(about).unwrap();
    assert_eq!(about, json!({"from": 1, "to": 8, "renamed": {"words": "text"}}));
    // The row that was deleted shows under the new names.
    let gone = &batches[0];
    let words = gone.column_by_name("words").unwrap().as_string::<i32>();
    assert_eq!((gone.num_rows(), words.value(0)), (1, "t0"));
    assert!(gone.column_by_name("later").unwrap().is_null(0));
    // A column of the same name that is another one.
    place.table.drop_columns(None, &["n".to_owned()]).await.unwrap(); // 9
    let added = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    place.table.add_null_columns(None, added).await.unwrap(); // 10
    assert_eq!(place.changed(8, 10).await.len(), 5, "its values are gone");
    assert_eq!(place.check(9, 10).await, (0, 0, 0));
    place.update("id < 3", "n", "id").await; // 11
    let changed = place.changed(8, 11).await;
    assert_eq!(changed.len(), 3, "null again, but for 1 and 2: {changed:?}");
    // Everything anew, with the fields in another order.
    let turned = rows(0..3).project(&[2, 0, 1]).unwrap();
    let (schema, batches) = stream(&turned);
    place.table.overwrite(None, schema, batches, options()).await.unwrap(); // 12
    assert_eq!(place.check(11, 12).await, (3, 0, 5));
    let gone = place.feed(11, 12, &ChangesSpec::default()).await.unwrap();
    assert!(!gone[0].schema().metadata()[CHANGES_KEY].contains("renamed"));
    place.check_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_any_kind_are_compared() {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![
        Some(f64::NAN),
        Some(0.0),
        None,
        Some(1.5),
        None,
        Some(f64::INFINITY),
    ]));
    let mut lists = ListBuilder::new(StringBuilder::new());
    for list in [Some(vec!["a"]), Some(vec![]), None, Some(vec!["b", "c"]), None, Some(vec!["d"])] {
        match list {
            None => lists.append_null(),
            Some(values) => {
                values.into_iter().for_each(|value| lists.values().append_value(value));
                lists.append(true);
            }
        }
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    let field = Arc::new(Field::new("x", DataType::Int64, true));
    let inner: ArrayRef =
        Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4), None, Some(6)]));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![(field, inner)]));
    let vectors: Vec<Option<Vec<Option<f32>>>> =
        (0..6).map(|n| Some(vec![Some(n as f32), Some(f32::NAN)])).collect();
    let vectors: ArrayRef = Arc::new(arrow_array::FixedSizeListArray::from_iter_primitive::<
        arrow_array::types::Float32Type,
        _,
        _,
    >(vectors, 2));
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", ids.clone(), true),
        ("f", floats, true),
        ("l", lists, true),
        ("s", structs, true),
        ("v", vectors, true),
    ])
    .unwrap();
    let place = place(&batch).await;
    place.upsert(&batch).await; // 2: everything again
    assert_eq!(place.check(1, 2).await, (0, 0, 0), "NaN is NaN, null is null");
    for (filter, column, sql) in [
        ("id = 0", "f", "1.0"),
        ("id = 1", "l", "NULL"),
        ("id = 2", "f", "CAST('NaN' AS DOUBLE)"),
        ("id = 3", "f", "NULL"),
        ("id = 3", "l", "['b']"),
        ("id = 4", "f", "NULL"),
        ("id = 5", "v", "[5.0, 0.0]"),
    ] {
        place.update(filter, column, sql).await;
    }
    assert_eq!(
        place.changed(2, 9).await,
        BTreeMap::from([
            (0, names(&["f"], false)),
            (1, names(&["l"], false)),
            (2, names(&["f"], false)),
            (3, names(&["f", "l"], false)),
            (5, names(&["v"], false)),
        ])
    );
    let inner: ArrayRef =
        Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(3), Some(4), None, None]));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Int64, true)),
        inner,
    )]));
    let partial =
        RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("s", structs, true)])
            .unwrap();
    place.upsert(&partial).await; // 10
    let changed = place.changed(9, 10).await;
    assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [1, 5]);
    place.check_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filled_column_is_told_apart_from_edits() {
    let place = place(&rows(0..8)).await; // 1
    let added = Arc::new(Schema::new(vec![Field::new("size", DataType::Int32, true)]));
    place.table.add_null_columns(None, added).await.unwrap(); // 2
    let fill = async |values: Vec<i32>, write_id: &str| {
        let snapshot = place.at(None).await;
        let source_files = snapshot.source_files(&["text".to_owned()]).unwrap()[&0].clone();
        let column: ArrayRef = Arc::new(Int32Array::from(values));
        let batch = RecordBatch::try_from_iter([("size", column)]).unwrap();
        let values = FragmentValues {
            fragment: 0,
            source_files,
            places: (0..6).collect(),
            values: futures::stream::iter([Ok(batch)]).boxed(),
            write_id: write_id.to_owned(),
        };
        place
            .table
            .fill_columns(None, &["size".to_owned()], &["text".to_owned()], vec![values])
            .await
            .unwrap()
    };
    fill(vec![1, 2, 3, 4, 5, 6], "a").await; // 3
    place.update("id = 1", "n", "n + 100").await; // 4
    place.update("id = 7", "size", "70").await; // 5
    fill(vec![1, 2, 3, 4, 5, 60], "b").await; // 6
    assert_eq!(place.latest().await, 6);

    let changed = place.changed(2, 3).await;
    assert_eq!(changed.len(), 6);
    assert!(changed.values().all(|change| *change == names(&["size"], true)));
    let changed = place.changed(2, 4).await;
    assert_eq!(changed[&0], names(&["size"], true));
    assert_eq!(changed[&1], names(&["n", "size"], false), "an edit stands beside the backfill");
    assert_eq!(place.changed(4, 5).await, BTreeMap::from([(7, names(&["size"], false))]));
    let changed = place.changed(5, 6).await;
    assert_eq!(changed, BTreeMap::from([(5, names(&["size"], true))]), "the others were the same");
    place.check_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_compared_by_where_they_lie() {
    let batch = |ids: Vec<i64>, fill: u8| {
        let cells = ids.iter().map(|id| match id % 4 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(vec![fill ^ *id as u8; 70_000]),
        });
        let cells: ArrayRef = Arc::new(LargeBinaryArray::from_iter(cells));
        let metadata = [(BLOB_METADATA.to_owned(), "true".to_owned())];
        let data = Field::new("data", DataType::LargeBinary, true).with_metadata(metadata.into());
        let text: ArrayRef =
            Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("t{id}"))));
        let ids: ArrayRef = Arc::new(Int64Array::from(ids));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
            data,
        ]);
        RecordBatch::try_new(Arc::new(schema), vec![ids, text, cells]).unwrap()
    };
    let place = place(&batch((0..8).collect(), 0)).await; // 1
    place.append(&batch((8..10).collect(), 0)).await; // 2
    place.update("id < 2", "text", "'x'").await; // 3
    place.delete("id = 5").await; // 4
    place.compact().await; // 5
    place.upsert(&batch(vec![2, 3, 20], 7)).await; // 6
    assert_eq!(
        place.changed(2, 3).await,
        BTreeMap::from([(0, names(&["text"], false)), (1, names(&["text"], false))])
    );
    let before = place.latest().await - 1;
    assert_eq!(place.check(4, before).await, (0, 0, 0), "compacted");
    let changed = place.changed(before, before + 1).await;
    assert_eq!(
        changed,
        BTreeMap::from([(2, names(&["data"], false)), (3, names(&["data"], false))])
    );
    place.check_all().await;
    let (_, batches) = place.at(None).await.changes(None, &ChangesSpec::default()).await.unwrap();
    let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
    let described = batches[0].column_by_name("data").unwrap();
    assert!(described.as_struct_opt().is_some(), "descriptors unless bytes are asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_and_kinds_are_chosen() {
    let place = place(&rows(0..5)).await;
    place.update("id = 1", "n", "7").await;
    place.update("id = 2", "text", "'x'").await;
    place.delete("id = 3").await;
    place.append(&rows(9..10)).await;
    let shown = async |columns: Option<&[&str]>, kinds: Option<&[ChangeKind]>| {
        let spec = ChangesSpec {
            columns: columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            kinds: kinds.map(<[ChangeKind]>::to_vec),
            ..ChangesSpec::default()
        };
        let mut shown = Vec::new();
        for batch in place.feed(1, 5, &spec).await? {
            assert_eq!(batch.num_columns(), 6 + columns.map_or(3, <[&str]>::len));
            shown.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        shown.sort();
        Ok::<Vec<String>, Error>(shown)
    };
    assert_eq!(shown(None, None).await.unwrap(), ["delete", "insert", "update", "update"]);
    assert_eq!(shown(Some(&["text", "id"]), None).await.unwrap(), ["delete", "insert", "update"]);
    let kinds = [ChangeKind::Insert, ChangeKind::Delete];
    assert_eq!(shown(None, Some(&kinds)).await.unwrap(), ["delete", "insert"]);
    assert_eq!(shown(None, Some(&[ChangeKind::Update])).await.unwrap(), ["update", "update"]);
    let error = shown(Some(&["texts"]), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("nearest: text"), "{error}");
    let error = shown(Some(&["id", "id"]), None).await.unwrap_err();
    assert!(error.message().contains("twice"), "{error}");
    let (begin, end) = (place.at(Some(5)).await, place.at(Some(1)).await);
    let error = end.changes(Some(&begin), &ChangesSpec::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let _ = &place.lake;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_one_batch() {
    let place = place(&rows(0..10_000)).await;
    place.append(&rows(10_000..20_000)).await;
    place.update("id % 2 = 0 AND id < 15000", "n", "n + 1").await;
    place.delete("id % 5 = 0").await;
    place.compact().await;
    let latest = place.latest().await;
    assert_eq!(place.check(0, latest).await, (16_000, 0, 0));
    assert_eq!(place.check(2, latest).await, (0, 6_000, 4_000));
    assert_eq!(place.check(1, latest).await, (8_000, 4_000, 2_000));
}
