//! What is printed of answers and of errors.

use std::error::Error as _;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use futures::TryStreamExt;
use lancedb::arrow::arrow::json::WriterBuilder;
use lancedb::arrow::arrow::json::writer::JsonArray;
use lancedb::query::ExecutableQuery;
use lancedb::{Error, Result, Table};
use serde_json::{Value, json};

/// Everything that an error says, its causes too.
pub fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

/// The kind of error that a call ends in and what it says; null where it ends in none.
pub fn failure<T>(result: Result<T>) -> Value {
    let Err(error) = result else {
        return Value::Null;
    };
    let shown = format!("{error:?}");
    let kind = shown.split(|letter: char| !letter.is_alphanumeric()).next();
    json!([kind, told(&error)])
}

/// What a call gives, or its failure where the server may not do it.
pub fn outcome(result: Result<Value>) -> Value {
    result.unwrap_or_else(|error| failure::<()>(Err(error)))
}

pub fn json_of(batches: &[RecordBatch]) -> Result<Value> {
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    Ok(serde_json::from_slice(&writer.into_inner()).expect("JSON of rows"))
}

pub async fn batches(query: &impl ExecutableQuery) -> Result<Vec<RecordBatch>> {
    query.execute().await?.try_collect().await
}

pub async fn rows(query: &impl ExecutableQuery) -> Result<Value> {
    json_of(&batches(query).await?)
}

/// One column of the rows, in their order.
pub async fn column(query: &impl ExecutableQuery, name: &str) -> Result<Value> {
    let rows = rows(query).await?;
    Ok(rows.as_array().into_iter().flatten().map(|row| row[name].clone()).collect())
}

pub async fn ids(query: &impl ExecutableQuery) -> Result<Value> {
    column(query, "id").await
}

/// Keys in their order where the server promises none.
pub async fn sorted_ids(query: &impl ExecutableQuery) -> Result<Value> {
    let mut ids = ids(query).await?;
    if let Some(ids) = ids.as_array_mut() {
        ids.sort_by_key(Value::as_i64);
    }
    Ok(ids)
}

pub fn fields_of(schema: &Schema) -> Value {
    schema
        .fields()
        .iter()
        .map(|field| json!([field.name(), field.data_type().to_string()]))
        .collect()
}

pub async fn fields(table: &Table) -> Result<Value> {
    Ok(fields_of(table.schema().await?.as_ref()))
}

pub async fn count(table: &Table) -> Result<usize> {
    table.count_rows(None).await
}
