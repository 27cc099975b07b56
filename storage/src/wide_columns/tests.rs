//! The two ways of reading, compared.

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::types::Float32Type;
use arrow_array::{FixedSizeListArray, Float32Array, Int64Array, StringArray};
use arrow_schema::Field;

use super::*;
use crate::test_lake;
use crate::{At, Lake};

fn vectors(width: i32, values: Float32Array, name: &str) -> ArrayRef {
    let item = Arc::new(Field::new(name, DataType::Float32, true));
    Arc::new(FixedSizeListArray::new(item, width, Arc::new(values), None))
}

/// Rows from `first` on: an id, a text, a vector, a matrix, a digest, and a vector that is too narrow.
fn batch(first: i64, rows: i64) -> RecordBatch {
    let ids: Vec<i64> = (first..first + rows).collect();
    let values = |width: i64| {
        Float32Array::from_iter_values(ids.iter().flat_map(|id| {
            let id = *id;
            (0..width).map(move |n| (id * width + n) as f32)
        }))
    };
    let row = vectors(16, values(16 * 9), "item");
    let item = Arc::new(Field::new("item", row.data_type().clone(), true));
    let matrix: ArrayRef = Arc::new(FixedSizeListArray::new(item, 9, row, None));
    let mut digests = FixedSizeBinaryBuilder::new(300);
    for id in &ids {
        digests.append_value([*id as u8; 300]).unwrap();
    }
    let texts = StringArray::from_iter_values(ids.iter().map(|id| "x".repeat((*id % 40) as usize)));
    let columns: [(&str, ArrayRef); 6] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("vector", vectors(128, values(128), "item")),
        ("text", Arc::new(texts)),
        ("matrix", matrix),
        ("digest", Arc::new(digests.finish())),
        ("narrow", vectors(4, values(4), "item")),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn write(lake: &Lake, batches: Vec<RecordBatch>, is_first: bool) {
    let (_, _, options) = test_lake::row(0);
    let schema = batches[0].schema();
    let source = futures::stream::iter(batches).map(Ok).boxed();
    let id = test_lake::id("t");
    if is_first {
        lake.create_table(&id, schema, source, options).await.unwrap();
    } else {
        let table = lake.table(&id).await.unwrap();
        table.append(None, schema, source, options).await.unwrap();
    }
}

async fn snapshot(lake: &Lake) -> Snapshot {
    let table = lake.table(&test_lake::id("t")).await.unwrap();
    table.snapshot(None, &At::Latest).await.unwrap()
}

/// Two files with batches, pages and reads that end at different rows.
async fn two_files(lake: &Lake) -> Snapshot {
    write(lake, vec![batch(0, 5_000), batch(5_000, 1), batch(5_001, 9_999)], true).await;
    write(lake, (0..7).map(|n| batch(15_000 + n * 3_001, 3_001)).collect(), false).await;
    snapshot(lake).await
}

async fn rows(schema: &SchemaRef, batches: BatchStream) -> RecordBatch {
    let batches: Vec<RecordBatch> = batches.map(Result::unwrap).collect().await;
    assert!(batches.iter().all(|batch| batch.schema() == *schema));
    arrow_select::concat::concat_batches(schema, &batches).unwrap()
}

async fn check_both_ways(snapshot: &Snapshot, spec: &ScanSpec) {
    let (schema, wide) = snapshot.scan_wide(spec).await.unwrap().expect("has wide columns");
    let (same_schema, whole) = snapshot.scan_rows(spec, 1_000).await.unwrap();
    assert_eq!(schema, same_schema);
    let (wide, whole) = (rows(&schema, wide).await, rows(&schema, whole).await);
    assert!(wide == whole, "{spec:?}");
}

fn names(names: &[&str]) -> Projection {
    Projection::Names(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test]
async fn both_ways_of_reading_agree() {
    let (lake, _folder) = test_lake::lake().await;
    let snapshot = two_files(&lake).await;
    let projections = [
        Projection::All,
        names(&["vector"]),
        names(&["digest", "id"]),
        names(&["matrix", "_rowid", "text"]),
    ];
    let slices = [
        None,
        Some(vec![Slice { fragment: 0, start: 4_999, rows: 3 }]),
        Some(vec![Slice { fragment: 1, start: 0, rows: 21_007 }]),
        Some(vec![
            Slice { fragment: 0, start: 100, rows: 14_900 },
            Slice { fragment: 1, start: 2_900, rows: 9_000 },
        ]),
    ];
    for projection in projections {
        for slices in &slices {
            let spec = ScanSpec {
                projection: projection.clone(),
                slices: slices.clone(),
                ..ScanSpec::default()
            };
            check_both_ways(&snapshot, &spec).await;
        }
    }
}

#[tokio::test]
async fn which_columns_are_wide() {
    let (lake, _folder) = test_lake::lake().await;
    let snapshot = two_files(&lake).await;
    let (schema, _) = snapshot.scan(&ScanSpec::default()).await.unwrap();
    let slices = snapshot.whole_fragments();
    let wide = snapshot.wide_columns(&schema, &slices).await.unwrap().unwrap();
    let mut found: Vec<&str> = wide.columns.keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, ["digest", "matrix", "vector"]);
}

#[tokio::test]
async fn what_is_not_plain_is_left_to_lance() {
    let (lake, _folder) = test_lake::lake().await;
    let all = two_files(&lake).await;
    let only_id = ScanSpec { projection: names(&["id"]), ..ScanSpec::default() };
    let filtered = ScanSpec { filter: Some("id < 9".to_owned()), ..ScanSpec::default() };
    let limited = ScanSpec { limit: Some(9), ..ScanSpec::default() };
    for spec in [only_id, filtered, limited] {
        assert!(all.scan_wide(&spec).await.unwrap().is_none(), "{spec:?}");
    }
    let table = lake.table(&test_lake::id("t")).await.unwrap();
    table.delete_rows(None, "id = 20000").await.unwrap();
    let deleted = snapshot(&lake).await;
    assert!(deleted.scan_wide(&ScanSpec::default()).await.unwrap().is_none());
    let first = Slice { fragment: 0, start: 0, rows: 15_000 };
    let untouched = ScanSpec { slices: Some(vec![first]), ..ScanSpec::default() };
    check_both_ways(&deleted, &untouched).await;
}

#[tokio::test]
async fn vectors_with_nulls_are_left_to_lance() {
    let item = || (0..200).map(|n| (n != 7).then_some(n as f32));
    let lists = (0..900).map(|row| (row % 3 != 1).then(item));
    let nulls: ArrayRef =
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, 200));
    let (lake, _folder) = test_lake::lake().await;
    let batch = RecordBatch::try_from_iter([("vector", nulls)]).unwrap();
    write(&lake, vec![batch.clone()], true).await;
    let snapshot = snapshot(&lake).await;
    assert!(snapshot.scan_wide(&ScanSpec::default()).await.unwrap().is_none());
    let (schema, batches) = snapshot.scan(&ScanSpec::default()).await.unwrap();
    assert_eq!(rows(&schema, batches).await.columns(), batch.columns());
}

#[tokio::test]
async fn rows_by_id_agree_with_a_scan() {
    let (lake, _folder) = test_lake::lake().await;
    let snapshot = two_files(&lake).await;
    let (schema, batches) = snapshot.scan(&ScanSpec::default()).await.unwrap();
    let all = rows(&schema, batches).await;
    // Each row once or more, in no order.
    let row_ids: Vec<u64> = (0..9_000).map(|n| n * 7_919 % all.num_rows() as u64).collect();
    let places = arrow_array::UInt64Array::from(row_ids.clone());
    let expected = arrow_select::take::take_record_batch(&all, &places).unwrap();
    for projection in [Projection::All, names(&["digest", "_rowid", "id"]), names(&["matrix"])] {
        let spec = ScanSpec {
            projection: projection.clone(),
            row_ids: Some(row_ids.clone()),
            ..ScanSpec::default()
        };
        let (schema, batches) = snapshot.scan(&spec).await.unwrap();
        assert!(snapshot.wide_take(&spec, &schema, row_ids.len()).await.unwrap().is_some());
        let taken = rows(&schema, batches).await;
        for (field, column) in schema.fields().iter().zip(taken.columns()) {
            match expected.column_by_name(field.name()) {
                Some(expected) => assert!(expected == column, "{}", field.name()),
                None => assert_eq!(column.as_ref(), &places as &dyn arrow_array::Array),
            }
        }
    }
    let spec = ScanSpec { row_ids: Some(vec![1; 300]), ..ScanSpec::default() };
    let twice = snapshot.scan(&spec).await.err().map(|error| error.kind());
    let few = ScanSpec { row_ids: Some(vec![1, 1]), ..ScanSpec::default() };
    assert_eq!(twice, snapshot.scan(&few).await.err().map(|error| error.kind()));
}

#[tokio::test]
async fn slices_that_do_not_exist_are_refused() {
    let (lake, _folder) = test_lake::lake().await;
    let snapshot = two_files(&lake).await;
    let slice = |fragment, start, rows| Slice { fragment, start, rows };
    let wrong = [
        vec![slice(0, 14_999, 2)],
        vec![slice(0, u64::MAX, u64::MAX), slice(1, u64::MAX, u64::MAX)],
        vec![slice(1, 0, u64::MAX)],
        vec![slice(7, 0, 1)],
    ];
    for slices in wrong {
        for projection in [Projection::All, names(&["vector"]), names(&["text"])] {
            let slices = Some(slices.clone());
            let spec = ScanSpec { projection, slices, ..ScanSpec::default() };
            let failed = match snapshot.scan(&spec).await {
                Err(error) => Some(error),
                Ok((_, batches)) => {
                    batches.filter_map(async |batch| batch.err()).boxed().next().await
                }
            };
            assert!(failed.is_some(), "{spec:?}");
        }
    }
}
