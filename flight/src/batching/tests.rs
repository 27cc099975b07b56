use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, FixedSizeListArray, Float32Array, Int64Array,
    LargeBinaryArray, StringArray,
};
use arrow_schema::Field;
use futures::stream;

use super::*;

fn numbers(rows: usize) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    RecordBatch::try_from_iter([("n", values)]).unwrap()
}

fn blobs(sizes: &[usize]) -> RecordBatch {
    let blobs: ArrayRef =
        Arc::new(LargeBinaryArray::from_iter_values(sizes.iter().map(|size| vec![1; *size])));
    RecordBatch::try_from_iter([("blob", blobs)]).unwrap()
}

fn assert_covers(batch: &RecordBatch, slices: &[RecordBatch]) {
    let joined = arrow_select::concat::concat_batches(&batch.schema(), slices).unwrap();
    assert_eq!(joined, *batch);
}

#[test]
fn slices_are_of_the_stated_size() {
    let items = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::new(
        items,
        64,
        Arc::new(Float32Array::from(vec![0.5; 64 * 100_000])),
        None,
    );
    let texts = StringArray::from_iter_values((0..100_000).map(|n| "x".repeat(n % 100)));
    let batch = RecordBatch::try_from_iter([
        ("vector", Arc::new(vectors) as ArrayRef),
        ("text", Arc::new(texts)),
    ])
    .unwrap();
    let cut = slices(&batch);
    assert!(cut.len() > 10);
    let (_, all_but_last) = cut.split_last().unwrap();
    for slice in all_but_last {
        let bytes = wire_bytes(slice);
        assert!((WIRE_BYTES_MIN..=WIRE_BYTES_MAX).contains(&bytes), "{bytes}");
    }
    assert_covers(&batch, &cut);
}

#[test]
fn small_batches_are_left_as_they_are() {
    assert_eq!(slices(&numbers(0)).len(), 1);
    assert_eq!(slices(&numbers(1)).len(), 1);
    assert_eq!(slices(&numbers(390_000)).len(), 1);
}

#[test]
fn uneven_rows_are_cut_and_one_large_row_stands_alone() {
    let mut sizes = vec![100; 2_000];
    sizes[700] = 10 << 20;
    sizes[701] = 3 << 20;
    sizes[702] = 3 << 20;
    let batch = blobs(&sizes);
    let cut = slices(&batch);
    for slice in &cut {
        assert!(wire_bytes(slice) <= WIRE_BYTES_MAX || slice.num_rows() == 1);
    }
    assert_covers(&batch, &cut);
}

#[test]
fn bytes_of_a_slice_are_those_of_its_rows() {
    let batch = blobs(&[5, 1_000, 7, 0]);
    assert_eq!(wire_bytes(&batch.slice(1, 1)), 1_000 + 8);
    assert_eq!(wire_bytes(&batch.slice(2, 2)), 7 + 16);
    let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(
        Arc::new(Field::new("item", DataType::Float32, false)),
        4,
        Arc::new(Float32Array::from(vec![0.5; 40])),
        None,
    ));
    assert_eq!(range_bytes(&vectors.slice(3, 5).to_data(), 1, 2), 2 * 4 * 4);
}

async fn gathered(batches: Vec<Result<RecordBatch>>) -> Vec<Result<usize, String>> {
    let mut gathered = Gathered::new(&numbers(0).schema(), Box::pin(stream::iter(batches)));
    let mut out = Vec::new();
    while let Some(batch) = gathered.next().await {
        out.push(batch.map(|b| b.num_rows()).map_err(|error| error.message().to_owned()));
    }
    out
}

#[tokio::test]
async fn small_batches_are_gathered_and_errors_come_in_their_place() {
    let small = || Ok(numbers(10_000));
    let large = || Ok(numbers(200_000));
    assert_eq!(gathered(vec![]).await, []);
    assert_eq!(gathered(vec![small(), small(), small()]).await, [Ok(30_000)]);
    assert_eq!(gathered(vec![large(), small(), small()]).await, [Ok(200_000), Ok(20_000)]);
    assert_eq!(gathered(vec![small(), Ok(numbers(520_000))]).await, [Ok(530_000)]);
    let broken = || Err(Error::internal("disk is gone"));
    assert_eq!(
        gathered(vec![small(), small(), broken()]).await,
        [Ok(20_000), Err("disk is gone".to_owned())]
    );
    assert_eq!(gathered(vec![broken(), small()]).await[0], Err("disk is gone".to_owned()));
}

#[tokio::test]
async fn dictionaries_are_left_as_they_are() {
    let colours: DictionaryArray<Int8Type> = ["red", "green"].into_iter().collect();
    let batch = RecordBatch::try_from_iter([("colour", Arc::new(colours) as ArrayRef)]).unwrap();
    let schema = batch.schema();
    let twice = stream::iter([Ok(batch.clone()), Ok(batch.clone())]);
    let mut gathered = Gathered::new(&schema, Box::pin(twice));
    for _ in 0..2 {
        assert_eq!(gathered.next().await.unwrap().unwrap(), batch);
    }
}

#[tokio::test]
async fn a_pause_sends_what_is_there() {
    let paused = stream::iter([Ok(numbers(10))]).chain(stream::pending());
    let mut gathered = Gathered::new(&numbers(0).schema(), Box::pin(paused));
    assert_eq!(gathered.next().await.unwrap().unwrap().num_rows(), 10);
}
