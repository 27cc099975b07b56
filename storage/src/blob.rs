//! Blobs: where their bytes go when written, and ranges of them when read.
//!
//! Up to 16 MiB a blob lies in the table's own files, placed by lance. A larger one is stored once under
//! the lake's `_blobs/sha256/<ab>/<digest>` and the table refers to it as an external blob below a base
//! path that is registered with the table. Equal large blobs are one object, whatever table they are in.
//! Compaction then never touches their bytes.

use async_recursion::async_recursion as boxed;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use arrow_array::builder::{LargeBinaryBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, LargeBinaryArray, StringArray, StructArray, UInt64Array, new_null_array,
};
use arrow_buffer::NullBuffer;
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::BlobFile;
use lance_core::datatypes::BLOB_V2_LOGICAL_FIELDS;
use lance_table::format::BasePath;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use sha2::{Digest, Sha256};

use crate::blob_claims::WriteClaims;
use crate::blob_digest::BlobDigest;
use crate::lake::Shared;
use crate::lance_error::{from_lance, from_object_store};
use crate::root::BLOBS_FOLDER;
use crate::schema::declares_blob;
use crate::snapshot::Snapshot;
use crate::upload::Uploads;

/// Blobs up to this size lie in the table's own files.
pub const BLOB_IN_TABLE_BYTES_MAX: u64 = 16 << 20;
/// The name of the base path by which tables refer to the lake's large blobs.
pub(crate) const BLOB_BASE_NAME: &str = "lakebed-blobs";
/// A client refers to a finished upload by this and its id.
const UPLOAD_SCHEME: &str = "upload:";
/// Bytes of one chunk of a blob that is read.
const CHUNK_BYTES: u64 = 1 << 20;

/// Whether a schema has a blob column.
pub(crate) fn has_blob_column(schema: &Schema) -> bool {
    schema.fields().iter().any(|field| declares_blob(field))
}

/// The base path that a table with blob columns registers.
pub(crate) fn blob_base(shared: &Shared, id: u32) -> BasePath {
    BasePath::new(id, shared.root.uri_of(BLOBS_FOLDER), Some(BLOB_BASE_NAME.to_owned()), false)
}

/// The path of a large blob below the lake's root.
pub(crate) fn blob_path(digest_hex: &str) -> String {
    format!("{BLOBS_FOLDER}/sha256/{}/{digest_hex}", &digest_hex[..2])
}

/// The URI of a path below the lake's root, as lance takes it for an external blob.
pub(crate) fn external_uri(shared: &Shared, relative: &str) -> Result<String> {
    match shared.root.local() {
        None => Ok(shared.root.uri_of(relative)),
        Some(folder) => url::Url::from_file_path(folder.join(relative))
            .map(String::from)
            .map_err(|()| Error::internal("the lake's root has no file URL")),
    }
}

/// The digest of a blob that the lake keeps apart from tables; nothing for any other.
pub(crate) fn large_blob(file: &BlobFile) -> Option<BlobDigest> {
    let uri = file.uri().filter(|_| file.position() == 0)?;
    BlobDigest::parse(uri.rsplit('/').next()?)
}

/// Lower-case hexadecimal of a digest.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Turns what clients send for a blob column into lance's logical blob values.
#[derive(Debug, Clone)]
pub(crate) struct BlobWriter {
    shared: Arc<Shared>,
    uploads: Uploads,
    claims: Arc<WriteClaims>,
}

impl BlobWriter {
    /// The claims are those of the write, which keeps them until it is committed.
    pub(crate) fn new(shared: Arc<Shared>, claims: Arc<WriteClaims>) -> Self {
        BlobWriter { uploads: Uploads::new(shared.clone()), shared, claims }
    }

    /// Converts a column of binary values, or of `struct<data, uri>`, whose first row is `first_row`.
    pub(crate) async fn convert(
        &self,
        field: &Field,
        column: &ArrayRef,
        first_row: u64,
    ) -> Result<ArrayRef> {
        let input = BlobInput::of(field, column)?;
        let limit = self.shared.limits.blob_cell_bytes_max;
        let mut is_plain = true;
        for row in 0..column.len() {
            let at = || format!("column `{}` row {}", field.name(), first_row + row as u64);
            match input.cell(row) {
                Cell::Null => {}
                Cell::Bytes(bytes) if bytes.len() > limit => {
                    return Err(Error::invalid(format!(
                        "{}: the blob has {} bytes; the limit blob_cell_bytes_max is {limit}; send \
                         it as an upload",
                        at(),
                        bytes.len()
                    )));
                }
                Cell::Bytes(bytes) => is_plain &= bytes.len() as u64 <= BLOB_IN_TABLE_BYTES_MAX,
                Cell::Uri(_) => is_plain = false,
                Cell::Both | Cell::Neither => {
                    return Err(Error::invalid(format!(
                        "{}: exactly one of `data` and `uri` must be set",
                        at()
                    )));
                }
                Cell::Range => {
                    return Err(Error::invalid(format!(
                        "{}: `position` and `size` are not supported; refer to a whole upload",
                        at()
                    )));
                }
            }
        }
        if is_plain {
            return Ok(input.into_plain());
        }
        self.convert_cells(field, &input, column.len(), first_row).await
    }

    async fn convert_cells(
        &self,
        field: &Field,
        input: &BlobInput,
        rows: usize,
        first_row: u64,
    ) -> Result<ArrayRef> {
        let mut data = LargeBinaryBuilder::new();
        let mut uris = StringBuilder::new();
        let mut ranges: Vec<Option<u64>> = Vec::with_capacity(rows);
        let mut valid: Vec<bool> = Vec::with_capacity(rows);
        for row in 0..rows {
            let stored = match input.cell(row) {
                Cell::Bytes(bytes) if bytes.len() as u64 <= BLOB_IN_TABLE_BYTES_MAX => {
                    Stored::Here(Bytes::copy_from_slice(bytes))
                }
                Cell::Bytes(bytes) => Stored::There(self.put(bytes).await?, bytes.len() as u64),
                Cell::Uri(uri) => self.resolve(uri).await.map_err(|error| {
                    error.context(format!(
                        "column `{}` row {}",
                        field.name(),
                        first_row + row as u64
                    ))
                })?,
                Cell::Null | Cell::Both | Cell::Neither | Cell::Range => Stored::Null,
            };
            valid.push(!matches!(stored, Stored::Null));
            ranges.push(match stored {
                Stored::There(_, size) => Some(size),
                Stored::Null | Stored::Here(_) => None,
            });
            match stored {
                Stored::Here(bytes) => {
                    data.append_value(&bytes);
                    uris.append_null();
                }
                Stored::There(uri, _) => {
                    data.append_null();
                    uris.append_value(uri);
                }
                Stored::Null => {
                    data.append_null();
                    uris.append_null();
                }
            }
        }
        // Lance writes the size into the descriptor only when it is given with a range.
        let positions: UInt64Array = ranges.iter().map(|size| size.map(|_| 0)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(data.finish()),
            Arc::new(uris.finish()),
            Arc::new(positions),
            Arc::new(UInt64Array::from(ranges)),
        ];
        let nulls = NullBuffer::from(valid);
        Ok(Arc::new(StructArray::new(BLOB_V2_LOGICAL_FIELDS.clone(), columns, Some(nulls))))
    }

    /// Stores large bytes under their digest, once.
    async fn put(&self, bytes: &[u8]) -> Result<String> {
        let digest = BlobDigest::new(Sha256::digest(bytes).into());
        self.claims.claim(digest).await?;
        let relative = blob_path(&digest.hex());
        let path = self.shared.root.path(&relative);
        let store = self.shared.root.store();
        if store.head(&path).await.is_err() {
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            match store.put_opts(&path, Bytes::copy_from_slice(bytes).into(), options).await {
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(from_object_store(error, "write of a blob")),
            }
        }
        external_uri(&self.shared, &relative)
    }

    async fn resolve(&self, uri: &str) -> Result<Stored> {
        let Some(id) = uri.strip_prefix(UPLOAD_SCHEME) else {
            let scheme = uri.split(':').next().unwrap_or_default();
            let scheme: String = scheme.chars().take(20).flat_map(char::escape_debug).collect();
            return Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "a blob may only refer to an upload (`upload:ID`); locations of scheme `{scheme}` \
                     are refused"
                ),
            ));
        };
        let upload = self.uploads.finished(id).await?;
        self.uploads.mark_used(&upload).await?;
        if upload.size <= BLOB_IN_TABLE_BYTES_MAX {
            return Ok(Stored::Here(self.uploads.read(&upload).await?));
        }
        let digest = BlobDigest::parse(&upload.sha256);
        let digest = digest.ok_or_else(|| Error::internal("an upload has no digest"))?;
        self.claims.claim(digest).await?;
        let relative = self.uploads.keep_as_blob(&upload).await?;
        Ok(Stored::There(external_uri(&self.shared, &relative)?, upload.size))
    }
}

enum Stored {
    Null,
    Here(Bytes),
    There(String, u64),
}

enum Cell<'a> {
    Null,
    Bytes(&'a [u8]),
    Uri(&'a str),
    Both,
    Neither,
    Range,
}

/// A blob column as it was sent, with its parts told apart.
struct BlobInput {
    data: LargeBinaryArray,
    uri: StringArray,
    ranges: Vec<ArrayRef>,
    nulls: Option<NullBuffer>,
    is_struct: bool,
}

impl BlobInput {
    fn of(field: &Field, column: &ArrayRef) -> Result<BlobInput> {
        let wrong = |error: arrow_schema::ArrowError| {
            Error::invalid(format!("column `{}` is no blob column: {error}", field.name()))
        };
        let rows = column.len();
        let no_data = || new_null_array(&DataType::LargeBinary, rows);
        let no_uri = || new_null_array(&DataType::Utf8, rows);
        let (data, uri, ranges, nulls) = match column.data_type() {
            DataType::Struct(_) => {
                let parts = column.as_struct();
                let part = |name: &str| parts.column_by_name(name).cloned();
                let ranges = [part("position"), part("size")].into_iter().flatten().collect();
                (
                    part("data").unwrap_or_else(no_data),
                    part("uri").unwrap_or_else(no_uri),
                    ranges,
                    parts.nulls().cloned(),
                )
            }
            _ => (column.clone(), no_uri(), Vec::new(), column.nulls().cloned()),
        };
        let data = cast(&data, &DataType::LargeBinary).map_err(wrong)?;
        let uri = cast(&uri, &DataType::Utf8).map_err(wrong)?;
        Ok(BlobInput {
            data: data.as_binary::<i64>().clone(),
            uri: uri.as_string::<i32>().clone(),
            ranges,
            nulls,
            is_struct: matches!(column.data_type(), DataType::Struct(_)),
        })
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Cell::Null;
        }
        if self.ranges.iter().any(|part| part.is_valid(row)) {
            return Cell::Range;
        }
        match (self.data.is_valid(row), self.uri.is_valid(row)) {
            (true, false) => Cell::Bytes(self.data.value(row)),
            (false, true) => Cell::Uri(self.uri.value(row)),
            (true, true) => Cell::Both,
            (false, false) if self.is_struct => Cell::Neither,
            (false, false) => Cell::Null,
        }
    }

    /// The column without copying a byte, when every cell is null or small bytes.
    fn into_plain(self) -> ArrayRef {
        let nulls = NullBuffer::union(self.nulls.as_ref(), self.data.nulls());
        let no_range = new_null_array(&DataType::UInt64, self.data.len());
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.data), Arc::new(self.uri), no_range.clone(), no_range];
        Arc::new(StructArray::new(BLOB_V2_LOGICAL_FIELDS.clone(), columns, nulls))
    }
}

/// Chunks of a blob with the error that ended them.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// One blob of one row of a pinned version.
#[derive(Debug, Clone)]
pub struct OpenBlob {
    file: Arc<BlobFile>,
    snapshot: Snapshot,
    etag: String,
}

impl Snapshot {
    /// Opens the blob of a row; nothing when it is null.
    ///
    /// # Errors
    /// `NotFound` for the column or the row; `InvalidArgument` for a column that holds no blobs.
    #[boxed]
    pub async fn blob(&self, column: &str, row_id: u64) -> Result<Option<OpenBlob>> {
        let field =
            self.dataset.schema().field(column).ok_or_else(|| self.unknown_column(column))?;
        if !field.is_blob() {
            return Err(Error::invalid(format!("column `{column}` is not a blob column")));
        }
        let missing = || {
            Error::not_found(format!(
                "row id {row_id} does not exist in version {}",
                self.version()
            ))
        };
        let taken = Box::pin(self.dataset.take_blobs(&[row_id], column)).await;
        let files = taken.map_err(|error| match from_lance(error) {
            // The column was looked at above, so what lance calls invalid can only be the row id.
            error if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidArgument) => {
                missing().with_source(error)
            }
            error => error,
        })?;
        let Some(file) = files.into_iter().next().ok_or_else(missing)? else { return Ok(None) };
        // A blob never changes where it lies, so what names its place names its bytes.
        let mut hasher = Sha256::new();
        hasher.update(file.uri().unwrap_or_default());
        hasher.update(file.data_path().as_ref());
        hasher.update(file.position().to_le_bytes());
        hasher.update(file.size().to_le_bytes());
        let etag = hex(&hasher.finalize()[..16]);
        Ok(Some(OpenBlob { file: Arc::new(file), snapshot: self.clone(), etag }))
    }
}

impl OpenBlob {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// A strong entity tag.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The version it was read from.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// The bytes of a range that lies within the blob, a chunk at a time.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        let blob = self.clone();
        futures::stream::unfold(range.start, move |at| {
            let (blob, end) = (blob.clone(), range.end);
            async move {
                if at >= end {
                    return None;
                }
                let next = (at + CHUNK_BYTES).min(end);
                let bytes = blob.file.read_range(at..next).await.map_err(from_lance);
                // After an error the stream is over.
                let resume = if bytes.is_ok() { next } else { end };
                Some((bytes, resume))
            }
        })
        .boxed()
    }
}
