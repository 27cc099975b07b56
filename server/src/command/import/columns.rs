//! The columns that an import of files makes, and batches of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{LargeBinaryBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray,
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use lakebed_media::MediaHeader;

/// Where the bytes of a blob's cell are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nowhere: the file could not be read.
    Null,
    /// In the batch.
    Bytes(Bytes),
    /// At the server, under the id of an upload.
    Upload(String),
}

impl Cell {
    /// Bytes that travel in the batch.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Cell::Bytes(bytes) => bytes.len() as u64,
            Cell::Null | Cell::Upload(_) => 0,
        }
    }
}

/// One file as a row.
#[derive(Debug, Clone)]
pub(super) struct FileRow {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) sha256: Option<String>,
    pub(super) data: Cell,
    pub(super) header: MediaHeader,
    pub(super) caption: Option<String>,
    /// Its row in the manifest.
    pub(super) listed: Option<usize>,
    /// The folder it lies in, where labels are asked for.
    pub(super) label: Option<String>,
}

impl FileRow {
    /// Bytes that travel in the batch, but for the columns of fixed width and those of a manifest.
    pub(super) fn bytes(&self) -> u64 {
        let caption = self.caption.as_ref().map_or(0, String::len);
        self.data.bytes() + (2 * self.path.len() + caption) as u64
    }

    /// Why the file, or its header, could not be read.
    pub(super) fn error(&self) -> Option<&str> {
        self.header.error.as_deref()
    }
}

/// Times of all columns.
pub(super) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// A blob column of plain bytes.
pub(super) fn blob_field(name: &str) -> Field {
    let metadata = HashMap::from([("lance-encoding:blob".to_owned(), "true".to_owned())]);
    Field::new(name, DataType::LargeBinary, true).with_metadata(metadata)
}

/// A blob column whose cells may refer to uploads.
fn upload_field(name: &str) -> Field {
    let metadata = HashMap::from([("ARROW:extension:name".to_owned(), "lance.blob.v2".to_owned())]);
    Field::new(name, DataType::Struct(upload_parts()), true).with_metadata(metadata)
}

fn upload_parts() -> Fields {
    Fields::from(vec![
        Field::new("data", DataType::LargeBinary, true),
        Field::new("uri", DataType::Utf8, true),
    ])
}

/// The column of blobs: plain bytes, or parts where a cell refers to an upload.
pub(super) fn blob_column(name: &str, cells: &[&Cell]) -> Result<(Field, ArrayRef), ArrowError> {
    let mut data = LargeBinaryBuilder::with_capacity(
        cells.len(),
        cells.iter().map(|cell| cell.bytes() as usize).sum(),
    );
    for cell in cells {
        match cell {
            Cell::Bytes(bytes) => data.append_value(bytes),
            Cell::Null | Cell::Upload(_) => data.append_null(),
        }
    }
    let data: ArrayRef = Arc::new(data.finish());
    if !cells.iter().any(|cell| matches!(cell, Cell::Upload(_))) {
        return Ok((blob_field(name), data));
    }
    let mut uris = StringBuilder::new();
    for cell in cells {
        match cell {
            Cell::Upload(id) => uris.append_value(format!("upload:{id}")),
            Cell::Null | Cell::Bytes(_) => uris.append_null(),
        }
    }
    let valid: Vec<bool> = cells.iter().map(|cell| **cell != Cell::Null).collect();
    let parts: Vec<ArrayRef> = vec![data, Arc::new(uris.finish())];
    let column = StructArray::try_new(upload_parts(), parts, Some(valid.into()))?;
    Ok((upload_field(name), Arc::new(column)))
}

/// The columns of a table of files; `more` are those of the manifest, and the label.
pub(super) fn file_schema(blob_column: &str, more: &[Field]) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut fields = vec![
        Field::new("path", DataType::Utf8, false),
        text("name"),
        text("media_type"),
        Field::new("size_bytes", DataType::Int64, true),
        text("sha256"),
        blob_field(blob_column),
        Field::new("width", DataType::Int32, true),
        Field::new("height", DataType::Int32, true),
        Field::new("orientation", DataType::Int32, true),
        Field::new("duration_ms", DataType::Int64, true),
        text("codec"),
        Field::new("frames", DataType::Int64, true),
        Field::new("taken_at", time_type(), true),
        Field::new("latitude", DataType::Float64, true),
        Field::new("longitude", DataType::Float64, true),
        text("caption"),
        text("error"),
    ];
    fields.extend(more.iter().cloned());
    Arc::new(Schema::new(fields))
}

/// A batch of files; `more` are the columns after the named ones.
pub(super) fn file_batch(
    blob: &str,
    rows: &[FileRow],
    more: Vec<(Field, ArrayRef)>,
) -> Result<RecordBatch, ArrowError> {
    let headers = || rows.iter().map(|row| &row.header);
    let texts = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    let cells: Vec<&Cell> = rows.iter().map(|row| &row.data).collect();
    let (blob_field, blob_array) = blob_column(blob, &cells)?;
    let name_of = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let names: Vec<Option<String>> = rows.iter().map(|row| name_of(&row.path)).collect();
    let sizes: Int64Array = rows.iter().map(|row| i64::try_from(row.size).ok()).collect();
    let taken: TimestampNanosecondArray = headers().map(|header| header.taken_at_ns).collect();
    let mut columns: Vec<ArrayRef> = vec![
        texts(rows.iter().map(|row| Some(row.path.as_str())).collect()),
        texts(names.iter().map(Option::as_deref).collect()),
        texts(headers().map(|header| Some(header.media_type)).collect()),
        Arc::new(sizes),
        texts(rows.iter().map(|row| row.sha256.as_deref()).collect()),
        blob_array,
        Arc::new(headers().map(|header| header.width).collect::<Int32Array>()),
        Arc::new(headers().map(|header| header.height).collect::<Int32Array>()),
        Arc::new(headers().map(|header| header.orientation).collect::<Int32Array>()),
        Arc::new(headers().map(|header| header.duration_ms).collect::<Int64Array>()),
        texts(headers().map(|header| header.codec.as_deref()).collect()),
        Arc::new(headers().map(|header| header.frames).collect::<Int64Array>()),
        Arc::new(taken.with_timezone("UTC")),
        Arc::new(headers().map(|header| header.latitude).collect::<Float64Array>()),
        Arc::new(headers().map(|header| header.longitude).collect::<Float64Array>()),
        texts(rows.iter().map(|row| row.caption.as_deref()).collect()),
        texts(headers().map(|header| header.error.as_deref()).collect()),
    ];
    let mut fields: Vec<Field> =
        file_schema(blob, &[]).fields().iter().map(|field| field.as_ref().clone()).collect();
    if let Some(field) = fields.iter_mut().find(|field| field.name() == blob) {
        *field = blob_field;
    }
    for (field, column) in more {
        fields.push(field);
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
