//! Rows of the cases; the tests compute the same ones.

use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, FixedSizeListArray, Int32Array, Int64Array, RecordBatch, RecordBatchIterator,
    RecordBatchReader, StringArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

const WORDS: [&str; 7] = ["red", "green", "blue", "car", "truck", "street", "bridge"];

pub fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

pub fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

pub fn vector_type(width: i32) -> DataType {
    DataType::FixedSizeList(Arc::new(field("item", DataType::Float32)), width)
}

/// A column of vectors; null where there is none.
pub fn vectors<I>(width: i32, values: I) -> ArrayRef
where
    I: IntoIterator<Item = Vec<f32>>,
{
    let values = values.into_iter().map(|one| Some(one.into_iter().map(Some).collect::<Vec<_>>()));
    Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(values, width))
}

pub fn integers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

pub fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

pub fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema, columns).expect("columns of the schema")
}

/// Rows as merges take them.
pub fn reader(batch: RecordBatch) -> Box<dyn RecordBatchReader + Send> {
    let schema = batch.schema();
    Box::new(RecordBatchIterator::new([Ok(batch)], schema))
}

pub fn people_schema() -> SchemaRef {
    schema(vec![
        field("id", DataType::Int64),
        field("name", DataType::Utf8),
        field("vector", vector_type(2)),
    ])
}

/// Rows with a key, a text and a vector on the line from (0, 10) to (10, 0).
pub fn people(first: i64, rows: i64) -> RecordBatch {
    named_people(first, rows, |id| format!("name {id}"))
}

pub fn named_people(first: i64, rows: i64, name: impl Fn(i64) -> String) -> RecordBatch {
    let ids = first..first + rows;
    let columns = vec![
        integers(ids.clone()),
        texts(ids.clone().map(name)),
        vectors(2, ids.map(|id| vec![id as f32, (10 - id) as f32])),
    ];
    batch(people_schema(), columns)
}

/// Rows for indexes.
pub fn scenes(first: i64, rows: i64) -> RecordBatch {
    let schema = schema(vec![
        field("id", DataType::Int64),
        field("label", DataType::Int32),
        field("caption", DataType::Utf8),
        field("vector", vector_type(8)),
    ]);
    let ids = first..first + rows;
    let word = |id: i64| WORDS[id as usize % 7];
    let columns = vec![
        integers(ids.clone()),
        Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| (id % 5) as i32))),
        texts(ids.clone().map(|id| format!("{} {}", word(id), word(id + 2)))),
        vectors(8, ids.map(scene_vector)),
    ];
    batch(schema, columns)
}

pub fn scene_vector(id: i64) -> Vec<f32> {
    (0..8).map(|place| ((id * 7919 + place * 104_729) % 1009) as f32 / 1009.0).collect()
}
