//! Rows by their ids, each with the score that put it in its place.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt as _;
use lakebed_core::{Error, Result};
use lakebed_storage::{BatchStream, Projection, ScanSpec, Snapshot};

/// The column of the scores, named as the SDKs do.
pub const RELEVANCE: &str = "_relevance_score";
pub(crate) const ROW_ID: &str = "_rowid";

/// What is shown of rows that are in an order of their own.
#[derive(Debug, Clone)]
pub(crate) struct Scored {
    /// The columns.
    pub(crate) projection: Projection,
    /// Whether `_rowid` is in the answer.
    pub(crate) with_row_id: bool,
    /// Whether a row may have no score.
    pub(crate) nullable: bool,
}

impl Scored {
    pub(crate) async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        Ok(self.with_scores(&*snapshot.scan_schema(&self.rows(Vec::new())).await?))
    }

    /// The rows in the order of `found`.
    pub(crate) async fn open(
        &self,
        snapshot: &Snapshot,
        found: Vec<(u64, Option<f32>)>,
    ) -> Result<(SchemaRef, BatchStream)> {
        let ids = found.iter().map(|(id, _)| *id).collect();
        let (schema, rows) = snapshot.scan(&self.rows(ids)).await?;
        let schema = self.with_scores(&schema);
        let (shown, with_row_id) = (Arc::clone(&schema), self.with_row_id);
        let mut done = 0;
        let rows = rows.map(move |batch| {
            let batch = batch?;
            let these = found.get(done..done + batch.num_rows());
            let these = these.ok_or_else(|| Error::internal("rows that nobody asked for"))?;
            done += batch.num_rows();
            let scores = Float32Array::from_iter(these.iter().map(|(_, score)| *score));
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(scores));
            if with_row_id {
                let ids = UInt64Array::from_iter_values(these.iter().map(|(id, _)| *id));
                columns.push(Arc::new(ids) as ArrayRef);
            }
            RecordBatch::try_new(Arc::clone(&shown), columns)
                .map_err(|error| Error::internal("rows with their scores").with_source(error))
        });
        Ok((schema, rows.boxed()))
    }

    /// The rows of an answer.
    fn rows(&self, row_ids: Vec<u64>) -> ScanSpec {
        let row_ids = Some(row_ids);
        ScanSpec { row_ids, projection: self.projection.clone(), ..ScanSpec::default() }
    }

    fn with_scores(&self, rows: &Schema) -> SchemaRef {
        let mut fields = rows.fields().to_vec();
        fields.push(Arc::new(Field::new(RELEVANCE, DataType::Float32, self.nullable)));
        if self.with_row_id {
            fields.push(Arc::new(Field::new(ROW_ID, DataType::UInt64, false)));
        }
        Arc::new(Schema::new_with_metadata(fields, rows.metadata().clone()))
    }
}
