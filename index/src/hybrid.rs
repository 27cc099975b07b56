//! Hybrid search: one search by vector and one by text, joined by reciprocal rank fusion.
//!
//! ```text
//!   request ─┬─► by vector ─► row ids, best first ─┐
//!            └─► by text   ─► row ids, best first ─┴─► fused ─► rows of the best, in their order
//! ```
//!
//! A row scores 1 / (60 + its place) in each of the two, places counted from 1, as the SDKs' own fusion
//! does. What is joined are the best `k + offset` of each.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, Float32Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _};
use lakebed_core::{Error, Result, SearchReport};
use lakebed_storage::{BatchStream, Projection, ScanSpec, SearchSpec, Snapshot};

/// The constant of the fusion, that of the paper which proposed it: Cormack, Clarke and Büttcher,
/// "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009.
const RRF_K: f32 = 60.0;
/// The column of the scores, named as the SDKs do.
pub const RELEVANCE: &str = "_relevance_score";
const ROW_ID: &str = "_rowid";

/// A search by vector and by text at once.
#[derive(Debug, Clone)]
pub struct Hybrid {
    /// By vector: as many rows as are wanted and skipped, nothing but their ids.
    pub(crate) vector: SearchSpec,
    /// By text, alike.
    pub(crate) text: SearchSpec,
    /// Rows at most.
    pub(crate) limit: usize,
    /// Rows that are skipped.
    pub(crate) offset: usize,
    /// The columns.
    pub(crate) projection: Projection,
    /// Whether `_rowid` is in the answer.
    pub(crate) with_row_id: bool,
}

impl Hybrid {
    pub(crate) async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        Ok(self.with_scores(&*snapshot.scan_schema(&self.rows(Vec::new())).await?))
    }

    pub(crate) async fn open(&self, snapshot: &Snapshot) -> Result<(SchemaRef, BatchStream)> {
        let (vector, text) =
            tokio::try_join!(row_ids(snapshot, &self.vector), row_ids(snapshot, &self.text))?;
        let found: Vec<(u64, f32)> =
            fused([&vector, &text]).into_iter().skip(self.offset).take(self.limit).collect();
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
            let scores = Float32Array::from_iter_values(these.iter().map(|(_, score)| *score));
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

    /// Both of its searches as text, each as `tell` has it.
    pub(crate) async fn told<F>(&self, tell: impl Fn(SearchSpec) -> F) -> Result<String>
    where
        F: Future<Output = Result<String>>,
    {
        let (vector, text) = (tell(self.vector.clone()).await?, tell(self.text.clone()).await?);
        let (limit, offset) = (self.limit, self.offset);
        Ok(format!(
            "ReciprocalRankFusion: k={RRF_K}, skip={offset}, fetch={limit}\n{}{}",
            indented(&vector),
            indented(&text)
        ))
    }

    /// The rows of an answer.
    fn rows(&self, row_ids: Vec<u64>) -> ScanSpec {
        let row_ids = Some(row_ids);
        ScanSpec { row_ids, projection: self.projection.clone(), ..ScanSpec::default() }
    }

    fn with_scores(&self, rows: &Schema) -> SchemaRef {
        let mut fields = rows.fields().to_vec();
        fields.push(Arc::new(Field::new(RELEVANCE, DataType::Float32, false)));
        if self.with_row_id {
            fields.push(Arc::new(Field::new(ROW_ID, DataType::UInt64, false)));
        }
        Arc::new(Schema::new_with_metadata(fields, rows.metadata().clone()))
    }
}

/// What two searches say of themselves, as one.
pub(crate) fn joined(vector: SearchReport, text: SearchReport) -> SearchReport {
    let join = |one: Option<String>, other: Option<String>| match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}, {other}")),
        (one, other) => one.or(other),
    };
    SearchReport {
        version: vector.version,
        index: join(vector.index, text.index),
        index_type: join(vector.index_type, text.index_type),
        vector_column: vector.vector_column,
        indexed_rows: vector.indexed_rows.min(text.indexed_rows),
        rows_scanned: vector.rows_scanned.max(text.rows_scanned),
        ..SearchReport::default()
    }
}

async fn row_ids(snapshot: &Snapshot, spec: &SearchSpec) -> Result<Vec<u64>> {
    let (_, mut batches) = snapshot.search(spec).await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let ids = batch.column_by_name(ROW_ID);
        let ids = ids.and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        let ids = ids.ok_or_else(|| Error::internal("a search without row ids"))?;
        found.extend_from_slice(ids.values());
    }
    Ok(found)
}

/// Rows with their scores, best first; of equals the one that a search named earlier.
fn fused(lists: [&[u64]; 2]) -> Vec<(u64, f32)> {
    let mut scores: HashMap<u64, (f32, usize)> = HashMap::new();
    for (place, id) in lists.iter().flat_map(|list| list.iter().enumerate()) {
        let seen = scores.len();
        let (score, _) = scores.entry(*id).or_insert((0.0, seen));
        *score += 1.0 / (place as f32 + 1.0 + RRF_K);
    }
    let mut found: Vec<(u64, (f32, usize))> = scores.into_iter().collect();
    found.sort_by(|(_, (a, seen_a)), (_, (b, seen_b))| b.total_cmp(a).then(seen_a.cmp(seen_b)));
    found.into_iter().map(|(id, (score, _))| (id, score)).collect()
}

fn indented(plan: &str) -> String {
    plan.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_lists_come_first() {
        let found = fused([&[1, 2, 3], &[9, 3, 8]]);
        let ids: Vec<u64> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [3, 1, 9, 2, 8]);
        let score = |place: f32| 1.0 / (place + 60.0);
        assert_eq!(found[0].1, score(3.0) + score(2.0));
        assert_eq!(found[1].1, score(1.0));
        assert!(fused([&[], &[]]).is_empty());
    }
}
