//! Blobs shown as bytes in the batches of a read.
//!
//! ```text
//!   rows with descriptors ─► sizes checked ─► cut into groups ─► bytes fetched ─► batches
//! ```
//!
//! Why not lance's own way (`BlobHandling::AllBinary`): it cuts batches by rows, before the sizes of
//! their blobs are known, and reads a blob of any size; nor does it know other names for blobs.
//! Descriptors say the sizes first, so a group of rows holds about one batch's bytes, and what is too
//! large for a batch is refused before any of it is read. Two groups are in memory at most: the one that
//! is sent and the next.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::LargeBinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt64Type};
use arrow_array::{Array, ArrayRef, LargeBinaryArray, RecordBatch, UInt64Array};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result, Subject};
use lance::Dataset;
use lance_core::datatypes::BlobKind;

use crate::lance_error::from_lance;
use crate::scan::{BatchStream, Projection, ScanSpec};
use crate::schema::BLOB_METADATA;
use crate::snapshot::Snapshot;

/// Bytes of blobs in one batch, unless a single one has more.
const GROUP_BYTES: u64 = 4 << 20;
/// Groups that are fetched at once, the one that is sent included.
const GROUPS_AT_ONCE: usize = 2;
/// Bytes that one group may have in flight from the store.
const READ_AHEAD_BYTES: u64 = 8 << 20;

/// Replaces the descriptors in batches by bytes.
#[derive(Debug, Clone)]
pub(crate) struct BlobBytes {
    snapshot: Snapshot,
    shown: Vec<ShownBlob>,
    cell_bytes_max: u64,
    /// The name of that limit.
    limit: &'static str,
}

/// A column of the answer, and the blob column that it shows.
#[derive(Debug, Clone)]
struct ShownBlob {
    name: String,
    column: String,
}

/// Rows of one batch whose blobs go out together.
struct Group {
    batch: RecordBatch,
    row_ids: Vec<u64>,
}

impl BlobBytes {
    /// Nothing when the read shows no blob.
    pub(crate) fn of(snapshot: &Snapshot, spec: &ScanSpec) -> Option<BlobBytes> {
        if !spec.blob_bytes {
            return None;
        }
        let fields = &snapshot.dataset.schema().fields;
        let blobs: Vec<&str> = fields
            .iter()
            .filter(|field| field.is_blob())
            .map(|field| field.name.as_str())
            .collect();
        let shown: Vec<(&str, &str)> = match &spec.projection {
            Projection::All | Projection::Names(_) => {
                blobs.iter().map(|blob| (*blob, *blob)).collect()
            }
            Projection::Expressions(pairs) => renamed(pairs, &blobs),
        };
        if shown.is_empty() {
            return None;
        }
        let shown = shown
            .into_iter()
            .map(|(name, column)| ShownBlob { name: name.to_owned(), column: column.to_owned() })
            .collect();
        let cell_bytes_max = snapshot.table().shared.limits.blob_cell_bytes_max as u64;
        let limit = "blob_cell_bytes_max";
        Some(BlobBytes { snapshot: snapshot.clone(), shown, cell_bytes_max, limit })
    }

    /// Shows blob columns under the names that come with them, beside the descriptors.
    pub(crate) fn shown(
        snapshot: &Snapshot,
        shown: Vec<(String, String)>,
        cell_bytes_max: u64,
        limit: &'static str,
    ) -> BlobBytes {
        let shown = shown.into_iter().map(|(name, column)| ShownBlob { name, column }).collect();
        BlobBytes { snapshot: snapshot.clone(), shown, cell_bytes_max, limit }
    }

    /// The blob columns whose bytes are fetched.
    pub(crate) fn columns(&self) -> Vec<&str> {
        self.shown.iter().map(|shown| shown.column.as_str()).collect()
    }

    /// The schema of the answer, from the one with descriptors. A blob column that shows bytes says that
    /// it is one, so that the rows can be written to another table as they are.
    pub(crate) fn schema(&self, described: &Schema) -> SchemaRef {
        let fields: Vec<FieldRef> = described
            .fields()
            .iter()
            .map(|field| match self.column_of(field.name()) {
                None => field.clone(),
                Some(_) => {
                    let metadata = [(BLOB_METADATA.to_owned(), "true".to_owned())];
                    let bytes = Field::new(field.name(), DataType::LargeBinary, true);
                    Arc::new(bytes.with_metadata(metadata.into()))
                }
            })
            .collect();
        Arc::new(Schema::new_with_metadata(fields, described.metadata().clone()))
    }

    /// Fetches the blobs of batches that come with their rows' ids.
    pub(crate) fn fill(
        self,
        described: impl futures::Stream<Item = Result<(RecordBatch, Vec<u64>)>> + Send + 'static,
        schema: SchemaRef,
    ) -> BatchStream {
        let cutter = self.clone();
        described
            .and_then(move |(batch, row_ids)| {
                let cutter = cutter.clone();
                async move { cutter.cut(&batch, &row_ids).await }
            })
            .map_ok(|groups| futures::stream::iter(groups.into_iter().map(Ok)))
            .try_flatten()
            .map(move |group| {
                let (bytes, schema) = (self.clone(), schema.clone());
                async move { bytes.fetch(group?, &schema).await }
            })
            .buffered(GROUPS_AT_ONCE)
            .boxed()
    }

    /// The blob column that a column of the answer shows.
    fn column_of(&self, name: &str) -> Option<&str> {
        let shown = self.shown.iter().find(|shown| shown.name == name);
        shown.map(|shown| shown.column.as_str())
    }

    fn dataset(&self) -> &Arc<Dataset> {
        &self.snapshot.dataset
    }

    async fn cut(&self, batch: &RecordBatch, row_ids: &[u64]) -> Result<Vec<Group>> {
        let row_bytes = self.row_bytes(batch, row_ids).await?;
        let groups = cut_rows(&row_bytes, GROUP_BYTES);
        Ok(groups
            .into_iter()
            .map(|rows| Group {
                batch: batch.slice(rows.start, rows.len()),
                row_ids: row_ids[rows].to_vec(),
            })
            .collect())
    }

    /// The bytes of each row's blobs together.
    async fn row_bytes(&self, batch: &RecordBatch, row_ids: &[u64]) -> Result<Vec<u64>> {
        let mut row_bytes = vec![0_u64; batch.num_rows()];
        for ShownBlob { name, column: blob } in &self.shown {
            let column = batch.column_by_name(name).or_else(|| batch.column_by_name(blob));
            // A projection of names may leave blob columns out.
            let Some(column) = column else { continue };
            let sizes = self.sizes(blob, column, row_ids).await?;
            for (row, size) in sizes.into_iter().enumerate() {
                if size > self.cell_bytes_max {
                    return Err(self.too_large(blob, row_ids[row], size));
                }
                row_bytes[row] = row_bytes[row].saturating_add(size);
            }
        }
        Ok(row_bytes)
    }

    fn too_large(&self, column: &str, row_id: u64, size: u64) -> Error {
        Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "column `{column}` row id {row_id}: the blob has {size} bytes; in a batch the limit \
                 {} is {}; read its bytes by ranges from the blob route",
                self.limit, self.cell_bytes_max
            ),
        )
        .about(Subject::Column)
    }

    /// The bytes of each blob of a column of descriptors.
    pub(crate) async fn sizes(
        &self,
        name: &str,
        column: &ArrayRef,
        row_ids: &[u64],
    ) -> Result<Vec<u64>> {
        let described = column.as_struct_opt();
        let sizes = described
            .and_then(|parts| parts.column_by_name("size"))
            .and_then(|sizes| sizes.as_primitive_opt::<UInt64Type>())
            .ok_or_else(|| Error::internal(format!("column `{name}` has no descriptors")))?;
        let kinds = described
            .and_then(|parts| parts.column_by_name("kind"))
            .and_then(|kinds| kinds.as_primitive_opt::<UInt8Type>());
        let mut bytes: Vec<u64> = (0..column.len())
            .map(|row| if column.is_valid(row) { sizes.value(row) } else { 0 })
            .collect();
        // An external blob that another writer stored may not say its size.
        let unknown: Vec<usize> = (0..column.len())
            .filter(|row| {
                let is_external =
                    kinds.is_some_and(|kinds| kinds.value(*row) == BlobKind::External as u8);
                is_external && column.is_valid(*row) && bytes[*row] == 0
            })
            .collect();
        if !unknown.is_empty() {
            let ids: Vec<u64> = unknown.iter().map(|row| row_ids[*row]).collect();
            let files =
                Box::pin(self.dataset().take_blobs(&ids, name)).await.map_err(from_lance)?;
            for (row, file) in unknown.into_iter().zip(files) {
                bytes[row] = file.map_or(0, |file| file.size());
            }
        }
        Ok(bytes)
    }

    async fn fetch(&self, group: Group, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let described = group.batch.column_by_name(field.name());
            columns.push(match (self.column_of(field.name()), described) {
                (Some(blob), _) => self.read(blob, &group.row_ids).await?,
                (None, Some(column)) => column.clone(),
                (None, None) => {
                    let name = field.name();
                    return Err(Error::internal(format!("column `{name}` is not in a batch")));
                }
            });
        }
        let rows = Some(group.batch.num_rows());
        let options = arrow_array::RecordBatchOptions::new().with_row_count(rows);
        RecordBatch::try_new_with_options(schema.clone(), columns, &options)
            .map_err(|error| Error::internal("show blobs as bytes").with_source(error))
    }

    async fn read(&self, column: &str, row_ids: &[u64]) -> Result<ArrayRef> {
        let reader = self.dataset().read_blobs(column).map_err(from_lance)?;
        let reader = reader
            .with_row_ids(row_ids)
            .with_io_buffer_size_bytes(READ_AHEAD_BYTES)
            .preserve_order(true);
        let blobs = Box::pin(reader.execute()).await.map_err(from_lance)?;
        if blobs.len() != row_ids.len() {
            return Err(Error::internal(format!(
                "{} blobs of column `{column}` were read for {} rows",
                blobs.len(),
                row_ids.len()
            )));
        }
        Ok(Arc::new(binary_array(blobs.into_iter().map(|blob| blob.data).collect())))
    }
}

/// The blobs that expressions show under another name. Other expressions over a blob see its
/// descriptor, such as `data['size']`.
fn renamed<'a>(pairs: &'a [(String, String)], blobs: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let shown = |(name, sql): &'a (String, String)| {
        let bare = sql.trim().trim_matches(['`', '"']);
        let blob = blobs.iter().find(|blob| **blob == bare)?;
        Some((name.as_str(), *blob))
    };
    pairs.iter().filter_map(shown).collect()
}

/// One blob is taken over as it is, because it may be large; several are copied together.
fn binary_array(cells: Vec<Option<Bytes>>) -> LargeBinaryArray {
    if let [Some(cell)] = cells.as_slice()
        && let Ok(end) = i64::try_from(cell.len())
    {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, end]));
        return LargeBinaryArray::new(offsets, Buffer::from(cell.clone()), None);
    }
    let bytes = cells.iter().flatten().map(Bytes::len).sum();
    let mut builder = LargeBinaryBuilder::with_capacity(cells.len(), bytes);
    for cell in &cells {
        builder.append_option(cell.as_ref());
    }
    builder.finish()
}

/// Cuts rows into runs of at most `bytes_max` bytes, or of one row that has more.
fn cut_rows(row_bytes: &[u64], bytes_max: u64) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0_u64);
    for (row, size) in row_bytes.iter().enumerate() {
        if row > start && bytes.saturating_add(*size) > bytes_max {
            runs.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes = bytes.saturating_add(*size);
    }
    if start < row_bytes.len() {
        runs.push(start..row_bytes.len());
    }
    runs
}

/// The ids of a batch's rows.
pub(crate) fn row_id_column(batch: &RecordBatch) -> Result<&UInt64Array> {
    batch
        .column_by_name(lance_core::ROW_ID)
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
        .ok_or_else(|| Error::internal("a scan with row ids answered without them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_by_bytes_and_never_lost() {
        assert_eq!(cut_rows(&[], 10), Vec::<Range<usize>>::new());
        assert_eq!(cut_rows(&[3, 3, 3, 3, 3], 10), [0..3, 3..5]);
        assert_eq!(cut_rows(&[50, 1, 1, 50, 50], 10), [0..1, 1..3, 3..4, 4..5]);
        assert_eq!(cut_rows(&[0; 1_000], 10), std::slice::from_ref(&(0..1_000)));
        assert_eq!(cut_rows(&[u64::MAX, u64::MAX], 10), [0..1, 1..2]);
    }

    #[test]
    fn only_a_bare_name_shows_a_blob() {
        let pairs = |sql: &str| [("a".to_owned(), sql.to_owned())];
        assert_eq!(renamed(&pairs("data"), &["data"]), [("a", "data")]);
        assert_eq!(renamed(&pairs(" `data` "), &["data"]), [("a", "data")]);
        assert_eq!(renamed(&pairs("data['size']"), &["data"]), []);
        assert_eq!(renamed(&pairs("name"), &["data"]), []);
    }

    #[test]
    fn cells_keep_their_nulls_and_empty_values() {
        let cell = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let one = binary_array(vec![cell("abc")]);
        assert_eq!((one.len(), one.value(0)), (1, b"abc".as_slice()));
        let many = binary_array(vec![cell("ab"), None, cell("")]);
        assert_eq!((many.value(0), many.is_null(1)), (b"ab".as_slice(), true));
        assert_eq!((many.is_null(2), many.value(2).len()), (false, 0));
    }
}
