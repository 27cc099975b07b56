//! Reads of a snapshot: scans with projection, filter and limit, and rows by id.
//!
//! A scan is a stream that is pulled: nothing is read ahead beyond stated bytes, and dropping the stream
//! stops the work behind it. Errors come as the last item; a plain end means that everything was sent.

use async_recursion::async_recursion as boxed;
use std::pin::Pin;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use futures::{Stream, StreamExt};
use lakebed_core::{Error, ErrorKind, Result};
use lance::Dataset;
use lance::dataset::ProjectionRequest;
use lance::dataset::scanner::{FragmentSlice, Scanner};
use serde::{Deserialize, Serialize};

use crate::blob_bytes::{BlobBytes, row_id_column};
use crate::json_column::{json_shown, text_as_stored};
use crate::lance_error::from_lance;
use crate::row_mask::RowMask;
use crate::snapshot::Snapshot;
use crate::sql_guard::check_sql;
use crate::wide_columns::WideTake;

/// Batches with the error that ended them.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// Rows of one batch of a scan.
pub(crate) const BATCH_ROWS: u64 = 65_536;
/// Bytes of one batch of a scan: as much as goes into one message on the wire, so that nothing is joined
/// or cut there.
pub(crate) const BATCH_BYTES: u64 = 2 << 20;
/// Where rows are wider than those that were looked at, lance makes the following batches smaller.
/// More than a page's dictionary, see `row_width.rs`.
pub(crate) const BATCH_BYTES_MAX: u64 = 32 << 20;
/// Batches that are decoded ahead of the one that is sent.
const BATCH_READAHEAD: usize = 2;
/// Bytes that one scan may read ahead of its client, for columns and for blobs.
pub(crate) const READ_AHEAD_BYTES: u64 = 16 << 20;
/// Rows that are fetched at a time when rows are asked for by id.
const TAKE_ROWS: usize = 4_096;

/// The columns of a scan, in the order of the answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Projection {
    /// All stored columns.
    #[default]
    All,
    /// Stored columns by name.
    Names(Vec<String>),
    /// `(alias, SQL expression)` pairs.
    Expressions(Vec<(String, String)>),
}

/// A run of rows of one fragment by physical position, deleted ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The fragment.
    pub fragment: u32,
    /// The first row.
    pub start: u64,
    /// How many rows.
    pub rows: u64,
}

/// What to read of a snapshot.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScanSpec {
    /// Which columns.
    pub projection: Projection,
    /// Rows for which this SQL expression is true.
    pub filter: Option<String>,
    /// Only rows that this selects.
    pub rows: Option<Arc<RowMask>>,
    /// At most this many rows.
    pub limit: Option<u64>,
    /// Skip this many rows first.
    pub offset: Option<u64>,
    /// Exactly these rows by stable row id, in this order.
    pub row_ids: Option<Vec<u64>>,
    /// Only these parts of the version; all of it when absent.
    pub slices: Option<Vec<Slice>>,
    /// Whether rows may come in any order.
    pub unordered: bool,
    /// Whether blob columns show their bytes rather than descriptors.
    pub blob_bytes: bool,
}

impl Snapshot {
    /// The schema that a scan answers with.
    ///
    /// # Errors
    /// `NotFound` for a column, `InvalidArgument` for an expression that does not parse.
    #[boxed]
    pub async fn scan_schema(&self, spec: &ScanSpec) -> Result<SchemaRef> {
        // Rows by id take the same projection as a scan.
        let scanner = self.scanner(spec).await?;
        let schema = Box::pin(scanner.schema()).await.map_err(|error| bad_plan(spec, error))?;
        Ok(match BlobBytes::of(self, spec) {
            Some(bytes) => bytes.schema(&schema),
            None => schema,
        })
    }

    /// Opens a scan.
    ///
    /// # Errors
    /// As [`Snapshot::scan_schema`]; `InvalidArgument` for a filter that does not parse.
    #[boxed]
    pub async fn scan(&self, spec: &ScanSpec) -> Result<(SchemaRef, BatchStream)> {
        if let Some(row_ids) = &spec.row_ids {
            let (schema, batches) = self.take(spec, row_ids.clone()).await?;
            return json_shown(schema, batches);
        }
        if let Some(bytes) = BlobBytes::of(self, spec) {
            return self.scan_with_blob_bytes(spec, bytes).await;
        }
        if let Some(found) = self.scan_wide(spec).await? {
            return Ok(found);
        }
        let rows = self.rows_of(spec, BATCH_BYTES, BATCH_ROWS).await?;
        self.scan_rows(spec, rows).await
    }

    /// Opens a scan with at most `rows` rows in a batch.
    pub(crate) async fn scan_rows(
        &self,
        spec: &ScanSpec,
        rows: u64,
    ) -> Result<(SchemaRef, BatchStream)> {
        let scanner = self.sized_scanner(spec, rows).await?;
        let stream =
            Box::pin(scanner.try_into_stream()).await.map_err(|error| bad_plan(spec, error))?;
        let schema = lance_io::stream::RecordBatchStream::schema(&stream);
        let snapshot = self.clone();
        let batches = stream.map(move |batch| {
            // Keeps the pin for as long as the stream lives.
            let _ = &snapshot;
            batch.map_err(from_lance)
        });
        Ok((schema, batches.boxed()))
    }

    async fn scan_with_blob_bytes(
        &self,
        spec: &ScanSpec,
        bytes: BlobBytes,
    ) -> Result<(SchemaRef, BatchStream)> {
        let schema = self.scan_schema(spec).await?;
        let rows = self.rows_of(spec, BATCH_BYTES, BATCH_ROWS).await?;
        let mut scanner = self.sized_scanner(spec, rows).await?;
        scanner.with_row_id();
        let stream =
            Box::pin(scanner.try_into_stream()).await.map_err(|error| bad_plan(spec, error))?;
        let described = stream.map(|batch| {
            let batch = batch.map_err(from_lance)?;
            let row_ids = row_id_column(&batch)?.values().to_vec();
            Ok((batch, row_ids))
        });
        Ok((schema.clone(), bytes.fill(described, schema)))
    }

    async fn scanner(&self, spec: &ScanSpec) -> Result<Scanner> {
        let limits = &self.table().shared.limits;
        let mut scanner = self.dataset.scan();
        match &spec.projection {
            Projection::All => {}
            Projection::Names(names) => {
                self.check_columns(names)?;
                scanner.project(names).map_err(from_lance)?;
            }
            Projection::Expressions(pairs) => {
                for (alias, sql) in pairs {
                    check_sql(sql, limits)
                        .map_err(|error| error.context(format!("columns: `{alias}`")))?;
                }
                scanner.project_with_transform(pairs).map_err(|error| bad_plan(spec, error))?;
            }
        }
        if let Some(filter) = &spec.filter {
            check_sql(filter, limits).map_err(|error| error.context("filter"))?;
            scanner.filter(filter).map_err(|error| bad_plan(spec, error))?;
        }
        if let Some(rows) = &spec.rows {
            rows.apply(&mut scanner);
        }
        if spec.limit.is_some() || spec.offset.is_some() {
            let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            scanner.limit(spec.limit.map(as_i64), spec.offset.map(as_i64)).map_err(from_lance)?;
        }
        if let Some(slices) = &spec.slices {
            self.restrict(&mut scanner, slices).await?;
        }
        scanner
            .scan_in_order(!spec.unordered)
            .io_buffer_size(READ_AHEAD_BYTES)
            .batch_readahead(BATCH_READAHEAD)
            .fragment_readahead(1);
        Ok(scanner)
    }

    async fn sized_scanner(&self, spec: &ScanSpec, rows: u64) -> Result<Scanner> {
        let mut scanner = self.scanner(spec).await?;
        scanner.batch_size(rows as usize).batch_size_bytes(BATCH_BYTES_MAX);
        Ok(scanner)
    }

    async fn restrict(&self, scanner: &mut Scanner, slices: &[Slice]) -> Result<()> {
        let mut whole = Vec::new();
        for slice in slices {
            let fragment = self.dataset.get_fragment(slice.fragment as usize).ok_or_else(|| {
                Error::invalid(format!("the ticket names fragment {}", slice.fragment))
            })?;
            let rows = fragment.metadata().physical_rows.unwrap_or(0) as u64;
            if slice.start == 0 && slice.rows == rows {
                whole.push(fragment.metadata().clone());
            }
        }
        if whole.len() == slices.len() {
            scanner.with_fragments(whole);
            return Ok(());
        }
        let slices: Vec<FragmentSlice> = slices
            .iter()
            .map(|slice| FragmentSlice {
                fragment_id: slice.fragment,
                row_offset: slice.start,
                row_count: slice.rows,
            })
            .collect();
        scanner.with_fragment_slices(&slices).await.map_err(from_lance)?;
        Ok(())
    }

    /// All fragments of the version.
    pub(crate) fn whole_fragments(&self) -> Vec<Slice> {
        whole_fragments(&self.dataset)
    }

    /// Whether a top-level column is a blob column.
    pub fn has_blobs(&self) -> bool {
        self.dataset.schema().fields.iter().any(|field| field.is_blob())
    }

    fn check_columns(&self, names: &[String]) -> Result<()> {
        for name in names {
            let is_known =
                lance_core::is_system_column(name) || self.dataset.schema().field(name).is_some();
            if !is_known {
                return Err(self.unknown_column(name));
            }
        }
        Ok(())
    }

    /// Rows by id in the order of the ids, a few thousand at a time.
    pub(crate) async fn take(
        &self,
        spec: &ScanSpec,
        row_ids: Vec<u64>,
    ) -> Result<(SchemaRef, BatchStream)> {
        let is_cut = spec.limit.is_some() || spec.offset.is_some();
        if spec.filter.is_some() || spec.rows.is_some() || is_cut {
            return Err(Error::invalid(
                "`row_ids` cannot be combined with `filter`, `row_set`, `limit` or `offset`",
            ));
        }
        let schema = self.scan_schema(&ScanSpec { row_ids: None, ..spec.clone() }).await?;
        let wide = self.wide_take(spec, &schema, row_ids.len()).await?;
        let chunks: Vec<Vec<u64>> = row_ids.chunks(TAKE_ROWS).map(<[u64]>::to_vec).collect();
        // The first is taken before the answer begins: most mistakes show there.
        let first = match chunks.first() {
            Some(chunk) => Some((self.take_chunk(spec, &wide, chunk).await?, chunk.clone())),
            None => None,
        };
        let (snapshot, owned) = (self.clone(), spec.clone());
        let rest = futures::stream::iter(chunks.into_iter().skip(1)).then(move |chunk| {
            let (snapshot, spec, wide) = (snapshot.clone(), owned.clone(), wide.clone());
            async move { Ok((snapshot.take_chunk(&spec, &wide, &chunk).await?, chunk)) }
        });
        let taken = futures::stream::iter(first.map(Ok)).chain(rest);
        if let Some(bytes) = BlobBytes::of(self, spec) {
            return Ok((schema.clone(), bytes.fill(taken, schema)));
        }
        let shown = schema.clone();
        let batches = taken.map(move |taken| with_schema(taken?.0, &shown));
        Ok((schema, batches.boxed()))
    }

    async fn take_chunk(
        &self,
        spec: &ScanSpec,
        wide: &Option<WideTake>,
        row_ids: &[u64],
    ) -> Result<RecordBatch> {
        let projection = match (wide, &spec.projection) {
            (Some(wide), _) => wide.others(self.dataset.schema()),
            (None, Projection::All) => {
                ProjectionRequest::from_schema(self.dataset.schema().clone())
            }
            (None, Projection::Names(names)) => {
                self.check_columns(names)?;
                ProjectionRequest::from_columns(names, self.dataset.schema())
            }
            (None, Projection::Expressions(pairs)) => {
                ProjectionRequest::from_sql(pairs.iter().map(|(a, b)| (a.clone(), b.clone())))
            }
        };
        let dataset = self.dataset.clone();
        let batch = Box::pin(dataset.take_rows(row_ids, projection)).await.map_err(from_lance)?;
        if batch.num_rows() != row_ids.len() {
            return Err(self.missing_row(row_ids).await?);
        }
        let batch = text_as_stored(batch)?;
        match wide {
            Some(wide) => wide.complete(batch).await,
            None => Ok(batch),
        }
    }

    async fn missing_row(&self, row_ids: &[u64]) -> Result<Error> {
        let list: Vec<String> = row_ids.iter().map(u64::to_string).collect();
        let mut scanner = self.dataset.scan();
        scanner.empty_project().map_err(from_lance)?;
        scanner.filter(&format!("_rowid IN ({})", list.join(","))).map_err(from_lance)?;
        scanner.with_row_id();
        let batch = Box::pin(scanner.try_into_batch()).await.map_err(from_lance)?;
        let found: std::collections::HashSet<u64> =
            row_id_column(&batch)?.values().iter().copied().collect();
        let missing = row_ids.iter().find(|id| !found.contains(id));
        Ok(match missing {
            Some(id) => Error::not_found(format!(
                "row id {id} does not exist in version {}",
                self.version()
            )),
            None => Error::invalid("a row id is given twice"),
        })
    }

    /// Rows that match a filter.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse.
    #[boxed]
    pub async fn count_matching(&self, filter: &str) -> Result<u64> {
        self.count_of(Some(filter), None).await
    }

    /// Cuts the version into at most `parts_max` runs of about equal rows, in stored order, none of them
    /// (but the last of a fragment) below `rows_min`. Empty for a version without rows.
    pub fn split(&self, parts_max: usize, rows_min: u64) -> Vec<Vec<Slice>> {
        let whole = self.whole_fragments();
        let fragments: Vec<(u32, u64)> = whole.iter().map(|all| (all.fragment, all.rows)).collect();
        split_rows(&fragments, parts_max, rows_min)
    }
}

fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    // Not `RecordBatch::with_schema`: it refuses metadata that differs.
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|error| Error::internal("take rows").with_source(error))
}

/// An error of planning a scan: which part of the request it is about, and a column that does not exist
/// told apart from an expression that does not parse.
pub(crate) fn bad_plan(spec: &ScanSpec, error: lance::Error) -> Error {
    let error = from_lance(error);
    if !matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotFound) {
        return error;
    }
    let part = match &spec.projection {
        // The filter is parsed by its own statement, the expressions as they are.
        Projection::Expressions(_) if !error.message().contains(" FROM t WHERE ") => "columns",
        _ if spec.filter.is_some() => "filter",
        _ => return error,
    };
    let kind = match error.message().contains("No field named") {
        true => ErrorKind::NotFound,
        false => ErrorKind::InvalidArgument,
    };
    let message = format!("{part}: {}", error.message());
    Error::new(kind, message).with_source(error)
}

fn split_rows(fragments: &[(u32, u64)], parts_max: usize, rows_min: u64) -> Vec<Vec<Slice>> {
    let total: u64 = fragments.iter().map(|(_, rows)| rows).sum();
    if total == 0 {
        return Vec::new();
    }
    let part_rows = total.div_ceil(parts_max.max(1) as u64).max(rows_min).max(1);
    let mut parts: Vec<Vec<Slice>> = Vec::new();
    let mut room = 0;
    for &(fragment, rows) in fragments {
        let mut start = 0;
        while start < rows {
            if room == 0 {
                parts.push(Vec::new());
                room = part_rows;
            }
            let take = room.min(rows - start);
            if let Some(part) = parts.last_mut() {
                part.push(Slice { fragment, start, rows: take });
            }
            start += take;
            room -= take;
        }
    }
    parts
}

/// All fragments of a version.
pub(crate) fn whole_fragments(dataset: &Dataset) -> Vec<Slice> {
    let fragments = dataset.fragments().iter().map(|fragment| Slice {
        fragment: fragment.id as u32,
        start: 0,
        rows: fragment.physical_rows.unwrap_or(0) as u64,
    });
    fragments.filter(|slice| slice.rows > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_row_once_in_order() {
        let fragments = [(0, 1_000), (3, 1), (4, 2_500)];
        for parts_max in [1, 2, 3, 7, 100_000] {
            for rows_min in [1, 400, 10_000] {
                let parts = split_rows(&fragments, parts_max, rows_min);
                assert!(parts.len() <= parts_max);
                let flat: Vec<Slice> = parts.into_iter().flatten().collect();
                let mut rest = fragments.iter();
                let mut current: Option<(u32, u64, u64)> = None;
                for slice in flat {
                    let (id, rows, at) = match current {
                        Some((id, rows, at)) if at < rows => (id, rows, at),
                        _ => rest.next().map(|(id, rows)| (*id, *rows, 0)).unwrap(),
                    };
                    assert_eq!((slice.fragment, slice.start), (id, at));
                    current = Some((id, rows, at + slice.rows));
                }
                assert_eq!(current, Some((4, 2_500, 2_500)));
                assert!(rest.next().is_none());
            }
        }
        assert!(split_rows(&[], 4, 1).is_empty());
    }
}
