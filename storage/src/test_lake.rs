//! A lake in a folder of its own with small tables, for unit tests.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::SchemaRef;
use futures::StreamExt;
use lakebed_core::{DatabaseName, TableId};

use crate::{BatchStream, Lake, LakeOptions, WriteOptions};

/// An empty lake.
pub(crate) async fn lake() -> (Arc<Lake>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(LakeOptions::at(folder.path().to_str().unwrap())).await.unwrap();
    (lake, folder)
}

/// A table's id in the default database.
pub(crate) fn id(text: &str) -> TableId {
    TableId::parse(&DatabaseName::default_database(), text).unwrap()
}

/// What a write of one row is made of.
pub(crate) fn row(n: i64) -> (SchemaRef, BatchStream, WriteOptions) {
    let values: ArrayRef = Arc::new(Int64Array::from(vec![n]));
    let batch = RecordBatch::try_from_iter([("n", values)]).unwrap();
    let options =
        WriteOptions { write_id: None, mode: String::new(), schema_digest: String::new() };
    (batch.schema(), futures::stream::iter([Ok(batch)]).boxed(), options)
}

/// Makes a table of one row.
pub(crate) async fn create(lake: &Lake, text: &str) {
    let (schema, batches, options) = row(0);
    lake.create_table(&id(text), schema, batches, options).await.unwrap();
}
