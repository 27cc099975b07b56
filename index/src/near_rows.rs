//! The rows that a resident index found, with their columns: what a search of lance answers with.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt as _;
use lakebed_core::{Error, Result, SearchReport};
use lakebed_storage::{BatchStream, Projection, ScanSpec, SearchSpec, Snapshot};

use crate::hybrid::Candidate;
use crate::resident::ResidentFound;

/// How far a row is.
pub(crate) const DISTANCE: &str = "_distance";
const ROW_ID: &str = "_rowid";

/// Rows that were found, to be fetched.
#[derive(Debug, Clone)]
pub struct NearRows {
    spec: SearchSpec,
    found: ResidentFound,
}

/// Where a column of the answer comes from.
#[derive(Clone, Copy)]
enum Source {
    Stored(usize),
    Distance,
    RowId,
}

impl NearRows {
    pub(crate) fn new(spec: SearchSpec, found: ResidentFound) -> NearRows {
        NearRows { spec, found }
    }

    /// What is said of the search.
    pub(crate) fn report(&self, version: u64) -> SearchReport {
        SearchReport {
            version,
            index: Some(self.found.name.clone()),
            index_type: Some(self.found.way.name().to_owned()),
            indexed_rows: self.found.graph_rows,
            rows_scanned: Some(self.found.compared_rows),
            ..SearchReport::default()
        }
    }

    /// The rows, best first.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let hits = self.found.hits.iter();
        hits.map(|hit| Candidate { id: hit.row_id, score: -hit.distance }).collect()
    }

    pub(crate) fn explain(&self) -> String {
        let (way, name, k) = (self.found.way.name(), &self.found.name, self.found.hits.len());
        let filter = self.spec.filter.as_deref();
        let filter = filter.map(|filter| format!(", filter={filter}")).unwrap_or_default();
        format!("TakeByRowId: rows={k}\n  ResidentSearch: index={name}, way={way}{filter}\n")
    }

    pub(crate) async fn schema(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        let stored = snapshot.scan_schema(&self.rows(Vec::new())).await?;
        Ok(self.laid_out(&stored).0)
    }

    pub(crate) async fn open(&self, snapshot: &Snapshot) -> Result<(SchemaRef, BatchStream)> {
        let ids: Vec<u64> = self.found.hits.iter().map(|hit| hit.row_id).collect();
        if ids.is_empty() {
            return Ok((self.schema(snapshot).await?, futures::stream::empty().boxed()));
        }
        let (stored, rows) = snapshot.scan(&self.rows(ids)).await?;
        let (schema, sources) = self.laid_out(&stored);
        let (shown, found) = (Arc::clone(&schema), self.found.clone());
        let mut done = 0;
        let rows = rows.map(move |batch| {
            let batch = batch?;
            let hits = found.hits.get(done..done + batch.num_rows());
            let hits = hits.ok_or_else(|| Error::internal("rows that nobody asked for"))?;
            done += batch.num_rows();
            let column = |source: &Source| -> ArrayRef {
                match source {
                    Source::Stored(at) => Arc::clone(batch.column(*at)),
                    Source::Distance => Arc::new(Float32Array::from_iter_values(
                        hits.iter().map(|hit| hit.distance),
                    )),
                    Source::RowId => {
                        Arc::new(UInt64Array::from_iter_values(hits.iter().map(|hit| hit.row_id)))
                    }
                }
            };
            let columns = sources.iter().map(column).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(hits.len()));
            RecordBatch::try_new_with_options(Arc::clone(&shown), columns, &options)
                .map_err(|error| Error::internal("rows with their distances").with_source(error))
        });
        Ok((schema, rows.boxed()))
    }

    fn rows(&self, row_ids: Vec<u64>) -> ScanSpec {
        let projection = match &self.spec.projection {
            Projection::Names(names) => {
                let stored = names.iter().filter(|name| !is_made(name));
                Projection::Names(stored.cloned().collect())
            }
            other => other.clone(),
        };
        ScanSpec { row_ids: Some(row_ids), projection, ..ScanSpec::default() }
    }

    /// The schema of the answer, and where its columns come from: named ones where they are named, the others
    /// behind the stored columns, as lance has them.
    fn laid_out(&self, stored: &Schema) -> (SchemaRef, Vec<Source>) {
        let distance = || Arc::new(Field::new(DISTANCE, DataType::Float32, true));
        let row_id = || Arc::new(Field::new(ROW_ID, DataType::UInt64, true));
        let mut fields = Vec::new();
        let mut sources = Vec::new();
        let mut next = 0..stored.fields().len();
        let mut add_stored = |fields: &mut Vec<Arc<Field>>, sources: &mut Vec<Source>| {
            if let Some((at, field)) =
                next.next().and_then(|at| Some((at, stored.fields().get(at)?)))
            {
                fields.push(Arc::clone(field));
                sources.push(Source::Stored(at));
            }
        };
        let (mut has_distance, mut has_row_id) = (false, false);
        match &self.spec.projection {
            Projection::Names(names) => {
                for name in names {
                    match name.as_str() {
                        DISTANCE => {
                            has_distance = true;
                            fields.push(distance());
                            sources.push(Source::Distance);
                        }
                        ROW_ID => {
                            has_row_id = true;
                            fields.push(row_id());
                            sources.push(Source::RowId);
                        }
                        _ => add_stored(&mut fields, &mut sources),
                    }
                }
            }
            _ => stored.fields().iter().for_each(|_| add_stored(&mut fields, &mut sources)),
        }
        if !has_distance {
            fields.push(distance());
            sources.push(Source::Distance);
        }
        if self.spec.with_row_id && !has_row_id {
            fields.push(row_id());
            sources.push(Source::RowId);
        }
        (Arc::new(Schema::new_with_metadata(fields, stored.metadata().clone())), sources)
    }
}

fn is_made(name: &str) -> bool {
    matches!(name, DISTANCE | ROW_ID)
}
