//! The bytes of some blobs of one column, in the order that was asked for.
//!
//! Their sizes are added up before any of them is read, so that what is too much for one answer is
//! refused while it can still be said.

use async_recursion::async_recursion as boxed;
use std::collections::HashSet;

use arrow_schema::SchemaRef;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result};

use crate::blob_bytes::BlobBytes;
use crate::scan::{BatchStream, Projection, ScanSpec};
use crate::snapshot::Snapshot;

impl Snapshot {
    /// The blobs of `column` in the rows `row_ids`, one row for each of them, nulls included; an id may
    /// be given more than once.
    ///
    /// # Errors
    /// `InvalidArgument` for a column without blobs, a row that does not exist, and for more than
    /// `bytes_max` bytes together.
    #[boxed]
    pub async fn fetch_blobs(
        &self,
        column: &str,
        row_ids: &[u64],
        bytes_max: u64,
    ) -> Result<(SchemaRef, BatchStream)> {
        let no_blobs = || Error::invalid(format!("column `{column}` is not a blob column"));
        match self.dataset.schema().field(column) {
            None => return Err(self.unknown_column(column)),
            Some(field) if !field.is_blob() => return Err(no_blobs()),
            Some(_) => {}
        }
        let spec = ScanSpec {
            projection: Projection::Names(vec![column.to_owned()]),
            blob_bytes: true,
            ..ScanSpec::default()
        };
        let schema = self.scan_schema(&spec).await?;
        let bytes = BlobBytes::of(self, &spec).ok_or_else(no_blobs)?;
        // Rows are taken by distinct ids, so one that comes again begins a run of its own.
        let runs = distinct_runs(row_ids);
        let mut total = 0_u64;
        for run in &runs {
            let described =
                ScanSpec { row_ids: Some(run.clone()), blob_bytes: false, ..spec.clone() };
            let (_, mut batches) = self.scan(&described).await.map_err(bad_row)?;
            let mut first = 0;
            while let Some(batch) = batches.try_next().await.map_err(bad_row)? {
                let ids = &run[first..first + batch.num_rows()];
                first += batch.num_rows();
                let sizes = bytes.sizes(column, batch.column(0), ids).await?;
                total = sizes.into_iter().fold(total, u64::saturating_add);
            }
        }
        if total > bytes_max {
            // The SDKs look for these words and ask for fewer rows.
            return Err(Error::invalid(format!(
                "fetch_blobs accepts at most {bytes_max} total blob bytes, and these are {total}"
            )));
        }
        let snapshot = self.clone();
        let batches = futures::stream::iter(runs)
            .then(move |run| {
                let (snapshot, spec) =
                    (snapshot.clone(), ScanSpec { row_ids: Some(run), ..spec.clone() });
                async move { snapshot.scan(&spec).await.map(|(_, batches)| batches) }
            })
            .try_flatten();
        Ok((schema, batches.boxed()))
    }
}

fn bad_row(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::invalid(error.message().to_owned()).with_source(error),
        _ => error,
    }
}

fn distinct_runs(row_ids: &[u64]) -> Vec<Vec<u64>> {
    let mut runs: Vec<Vec<u64>> = Vec::new();
    let mut seen = HashSet::new();
    for id in row_ids {
        if runs.is_empty() || !seen.insert(*id) {
            seen = HashSet::from([*id]);
            runs.push(Vec::new());
        }
        if let Some(run) = runs.last_mut() {
            run.push(*id);
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_comes_again_begins_a_run() {
        assert!(distinct_runs(&[]).is_empty());
        assert_eq!(distinct_runs(&[1, 2, 3]), [vec![1, 2, 3]]);
        assert_eq!(distinct_runs(&[1, 2, 1, 3, 1]), [vec![1, 2], vec![1, 3], vec![1]]);
        assert_eq!(distinct_runs(&[5, 5]), [vec![5], vec![5]]);
    }
}
