//! Files whose format has rows: each becomes one write, so its rows are in the table all together or
//! not at all.
//!
//! ```text
//!   thread: reader of the format ─► batches of some MiB ─► queue ─► DoPut
//! ```
//!
//! The write id is made of the digest of the file, so a file that was imported is not imported again
//! while the table remembers its writes.

mod arrow;
mod csv;
mod json;
mod lance;
mod parquet;
mod tar;

use std::collections::HashMap;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::arrow_array::cast::AsArray as _;
use ::arrow_array::{Array, ArrayRef, OffsetSizeTrait, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lakebed_proto::command::{CommitRule, WriteCommand, WriteMode};
use tokio::sync::mpsc;

use super::known::Shown;
use super::report::{Progress, Summary};
use super::upload::digest;
use super::walk::Input;
use crate::exit::Exit;
use crate::flight_client::{Batches, FlightClient};

/// What one message holds; a row that is larger is a message of its own.
const BATCH_BYTES: usize = 8 << 20;
/// A row beyond this fits no message.
const ROW_BYTES_MAX: usize = 48 << 20;
const BATCH_ROWS: usize = 8_192;
/// Columns of a file: readers and writers hold something for each.
const COLUMNS_MAX: usize = 16_384;
/// Cells of one batch: decoders take memory for all of them before they read a row.
const BATCH_CELLS: usize = 1 << 20;
/// What some writers put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Batches between the reader and the connection.
const BATCHES_AHEAD: usize = 2;

/// A format with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFormat {
    Arrow,
    Csv(u8),
    Json,
    Lance,
    Parquet,
    Tar,
}

/// The format of a PATH that has rows; nothing for one that is just files.
pub(super) fn format_of(input: &Input) -> Option<RowFormat> {
    let name = input.path.file_name()?.to_string_lossy().to_ascii_lowercase();
    if input.is_folder {
        let is_dataset = name.ends_with(".lance") || input.path.join("_versions").is_dir();
        return is_dataset.then_some(RowFormat::Lance);
    }
    match name.rsplit_once('.')?.1 {
        "parquet" | "pq" => Some(RowFormat::Parquet),
        "csv" => Some(RowFormat::Csv(b',')),
        "tsv" | "tab" => Some(RowFormat::Csv(b'\t')),
        "json" | "jsonl" | "ndjson" => Some(RowFormat::Json),
        "arrow" | "arrows" | "feather" | "ipc" => Some(RowFormat::Arrow),
        "tar" => Some(RowFormat::Tar),
        _ => None,
    }
}

/// The rows of one file.
pub(super) struct RowSource {
    /// The columns of every batch.
    pub(super) schema: SchemaRef,
    /// The rows, in their order.
    pub(super) batches: Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>,
}

/// How rows are read.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// Rows of a text that the types of its columns are told from; all of them when absent.
    pub(super) sample_rows: Option<usize>,
    /// Columns of bytes that become blobs.
    pub(super) blob_column: Option<String>,
    /// What all shards of a data set have together.
    pub(super) shards: Option<Arc<tar::Members>>,
}

/// Opens a file as rows, in types that every client of a table can read.
pub(super) fn open(path: &Path, format: RowFormat, options: &Options) -> Result<RowSource, String> {
    let source = match format {
        RowFormat::Arrow => arrow::open(path),
        RowFormat::Csv(delimiter) => csv::open(path, delimiter, options.sample_rows),
        RowFormat::Json => json::open(path, options.sample_rows),
        RowFormat::Parquet => parquet::open(path),
        RowFormat::Tar => tar::open(path, options.shards.as_deref()),
        RowFormat::Lance => lance::open(path),
    }?;
    let columns = source.schema.fields().len();
    if columns > COLUMNS_MAX {
        return Err(format!("the file has {columns} columns; at most {COLUMNS_MAX} are read"));
    }
    plain(source, options.blob_column.as_deref())
}

/// Casts types that clients cannot read, and makes the wanted column one of blobs.
fn plain(source: RowSource, blob: Option<&str>) -> Result<RowSource, String> {
    let fields = source.schema.fields().iter().map(|field| {
        let kind = match field.data_type() {
            DataType::Utf8View | DataType::Null => DataType::Utf8,
            DataType::BinaryView => DataType::Binary,
            other => other.clone(),
        };
        let field = field.as_ref().clone();
        let is_bytes =
            matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_));
        match blob == Some(field.name().as_str()) {
            true if is_bytes => Ok(super::columns::blob_field(field.name())),
            true => Err(format!("column `{}` holds no bytes, but {kind}", field.name())),
            false => Ok(field.with_data_type(kind)),
        }
    });
    let fields = fields.collect::<Result<Vec<Field>, String>>()?;
    if let Some(absent) = blob.filter(|name| !fields.iter().any(|field| field.name() == name)) {
        return Err(format!("there is no column `{absent}`, which --blob-column names"));
    }
    let schema = Arc::new(Schema::new(fields));
    let target = Arc::clone(&schema);
    let batches = source.batches.map(move |batch| {
        let batch = batch?;
        let columns =
            batch.columns().iter().zip(target.fields()).map(|(column, field)| {
                match column.data_type() == field.data_type() {
                    true => Ok(Arc::clone(column)),
                    false => cast(column, field.data_type()),
                }
            });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>().map_err(text)?;
        RecordBatch::try_new(Arc::clone(&target), columns).map_err(text)
    });
    Ok(RowSource { schema, batches: Box::new(batches) })
}

/// Rows that are read at a time, of so many columns.
fn batch_rows(columns: usize) -> usize {
    (BATCH_CELLS / columns.max(1)).clamp(1, BATCH_ROWS)
}

/// Cuts a batch so that each part fits a message.
fn cut(batch: RecordBatch, parts: &mut Vec<RecordBatch>) -> Result<(), String> {
    let bytes = bytes_of(&batch)?;
    if bytes <= BATCH_BYTES || batch.num_rows() <= 1 {
        if bytes > ROW_BYTES_MAX {
            return Err(format!(
                "a row has {bytes} bytes, and at most {ROW_BYTES_MAX} fit a message; import large \
                 files as files"
            ));
        }
        if batch.num_rows() > 0 {
            parts.push(batch);
        }
        return Ok(());
    }
    let half = batch.num_rows() / 2;
    cut(batch.slice(0, half), parts)?;
    cut(batch.slice(half, batch.num_rows() - half), parts)
}

fn bytes_of(batch: &RecordBatch) -> Result<usize, String> {
    batch.columns().iter().map(|column| slice_bytes(column).map_err(text)).sum()
}

/// The bytes that travel with these rows. Arrow itself counts all that lies behind the offsets of lists,
/// also what belongs to rows of other slices.
fn slice_bytes(column: &dyn Array) -> Result<usize, ArrowError> {
    let rows = column.len();
    let below = match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            slice_bytes(&between(list.values(), list.value_offsets()))? + rows * size_of::<i32>()
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            slice_bytes(&between(list.values(), list.value_offsets()))? + rows * size_of::<i64>()
        }
        DataType::Map(..) => {
            let map = column.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            slice_bytes(&between(&entries, map.value_offsets()))? + rows * size_of::<i32>()
        }
        DataType::FixedSizeList(..) => slice_bytes(column.as_fixed_size_list().values())?,
        DataType::Struct(_) => {
            let parts = column.as_struct().columns().iter();
            parts.map(|part| slice_bytes(part)).sum::<Result<usize, ArrowError>>()?
        }
        _ => return column.to_data().get_slice_memory_size(),
    };
    let nulls = if column.nulls().is_some() { rows.div_ceil(8) } else { 0 };
    Ok(below + nulls)
}

/// The values that offsets refer to.
fn between<O: OffsetSizeTrait>(values: &ArrayRef, offsets: &[O]) -> ArrayRef {
    match offsets {
        [first, .., last] => values.slice(first.as_usize(), last.as_usize() - first.as_usize()),
        _ => values.slice(0, 0),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What an import of rows needs to know.
pub(super) struct RowImport {
    pub(super) flight: FlightClient,
    pub(super) table: String,
    pub(super) inputs: Vec<(Input, RowFormat)>,
    pub(super) options: Options,
    /// Whether a file that was imported before is imported once more.
    pub(super) again: bool,
    pub(super) progress: Progress,
}

impl RowImport {
    /// Imports the files one after the other. The first one makes the table where it is missing.
    ///
    /// # Errors
    /// The first file that cannot be read or does not fit; the files before it stay.
    pub(super) async fn run(mut self, shown: Option<Shown>) -> Result<Summary, Exit> {
        let mut summary = Summary { tables: vec![self.table.clone()], ..Summary::default() };
        let shards: Vec<PathBuf> = self
            .inputs
            .iter()
            .filter(|(_, format)| *format == RowFormat::Tar)
            .map(|(input, _)| input.path.clone())
            .collect();
        if !shards.is_empty() {
            let members = blocking(move || tar::members(&shards)).await?;
            self.options.shards = Some(Arc::new(members));
        }
        let mut version = shown.map(|shown| shown.version);
        for (input, format) in &self.inputs {
            self.one(&input.path, *format, &mut version, &mut summary).await?;
        }
        Ok(summary)
    }

    async fn one(
        &self,
        path: &Path,
        format: RowFormat,
        version: &mut Option<u64>,
        summary: &mut Summary,
    ) -> Result<(), Exit> {
        let at = |error: String| Exit::failed(format!("`{}`: {error}", path.display()));
        let hashed = path.to_owned();
        let (size, digest) = match format {
            RowFormat::Lance => blocking(move || lance::digest(&hashed))
                .await
                .map(|digest| (0, digest))
                .map_err(|exit| at(exit.into_message()))?,
            _ => blocking(move || digest(&hashed).map_err(text))
                .await
                .map_err(|exit| at(format!("the file cannot be read: {}", exit.into_message())))?,
        };
        self.progress.add_bytes(size);
        let (opened, options) = (path.to_owned(), self.options.clone());
        let schema = blocking(move || open(&opened, format, &options).map(|source| source.schema))
            .await
            .map_err(|exit| at(exit.into_message()))?;
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut seen = HashMap::new();
        if let Some(twice) = names.iter().find(|name| seen.insert(**name, ()).is_some()) {
            return Err(at(format!("two columns have the name `{twice}`")));
        }
        let again = match self.again {
            true => format!("-{:x}", u128::from(std::process::id()) ^ now_ns()),
            false => String::new(),
        };
        let write_id = format!("import-rows-{digest}{again}");
        // A table that is made with its first rows is not there when they turn out to be broken.
        let mode = if version.is_none() { WriteMode::Create } else { WriteMode::Append };
        let command = self.command(mode, Some(write_id));
        let receipt = self.flight.write(command, schema, || self.batches(path, format)).await;
        let receipt = match receipt {
            // The same bytes once made the table, or came with other types.
            Err(failure) if mode == WriteMode::Append && failure.is_existing() => None,
            receipt => Some(receipt.map_err(|failure| at(Exit::from(failure).into_message()))?),
        };
        summary.files += 1;
        match receipt {
            Some(receipt) if version.is_none_or(|known| receipt.version > known) => {
                summary.rows_added += receipt.rows;
                summary.bytes += if size > 0 { size } else { receipt.bytes };
                *version = Some(receipt.version);
                self.progress.add_done(receipt.rows);
            }
            _ => summary.files_unchanged += 1,
        }
        Ok(())
    }

    fn command(&self, mode: WriteMode, write_id: Option<String>) -> WriteCommand {
        WriteCommand {
            table: self.table.clone(),
            mode,
            on: Vec::new(),
            branch: None,
            write_id,
            commit: CommitRule::Explicit,
        }
    }

    /// The rows of a file, read by a thread that waits for the connection.
    fn batches(&self, path: &Path, format: RowFormat) -> Batches {
        let (sender, receiver) = mpsc::channel::<Result<RecordBatch, String>>(BATCHES_AHEAD);
        let (path, options) = (path.to_owned(), self.options.clone());
        std::thread::spawn(move || {
            // Readers of other people stand behind this.
            let read = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
                let mut parts = Vec::new();
                for batch in open(&path, format, &options)?.batches {
                    cut(batch?, &mut parts)?;
                    for part in parts.drain(..) {
                        if sender.blocking_send(Ok(part)).is_err() {
                            return Ok(());
                        }
                    }
                }
                Ok(())
            }));
            let error = match read {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => "the file made its reader fail".to_owned(),
            };
            let _ = sender.blocking_send(Err(error));
        });
        Box::pin(futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|batch| (batch, receiver))
        }))
    }
}

fn now_ns() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

/// Runs a reader on a thread for such work; one that fails by a panic is an error of the file.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Exit> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Exit::failed),
        Err(_) => Err(Exit::failed("the file made its reader fail")),
    }
}

/// The first bytes of a file.
fn head(path: &Path, bytes: u64) -> Result<Vec<u8>, String> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(text)?;
    file.take(bytes).read_to_end(&mut head).map_err(text)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use ::arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
    use ::arrow_array::{Int64Array, StructArray};

    use super::*;

    /// Rows of eight KiB of numbers.
    fn lists(rows: usize) -> ArrayRef {
        let mut lists = ListBuilder::new(Int64Builder::new());
        for row in 0..rows {
            lists.values().append_slice(&[row as i64; 1_024]);
            lists.append(true);
        }
        Arc::new(lists.finish())
    }

    #[test]
    fn rows_of_lists_are_cut_like_others() {
        let rows = 4_096;
        let list = lists(rows);
        let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        for row in 0..rows {
            maps.keys().append_value("k".repeat(4_096));
            maps.values().append_value(row as i64);
            maps.append(true).unwrap();
        }
        let field = Arc::new(Field::new("in", list.data_type().clone(), true));
        let part: ArrayRef = Arc::new(StructArray::from(vec![(field, Arc::clone(&list))]));
        let columns: [(&str, ArrayRef); 3] =
            [("list", list), ("struct", part), ("map", Arc::new(maps.finish()))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut parts = Vec::new();
        cut(batch.clone(), &mut parts).unwrap();
        // Twenty KiB a row.
        assert_eq!(parts.len(), 16);
        assert!(parts.iter().all(|part| bytes_of(part).unwrap() <= BATCH_BYTES));
        assert_eq!(parts.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
    }

    #[test]
    fn bytes_are_those_of_the_slice() {
        let list = lists(10);
        let whole = slice_bytes(&list).unwrap();
        assert_eq!(slice_bytes(&list.slice(3, 1)).unwrap() * 10, whole);
        assert_eq!(slice_bytes(&list.slice(3, 0)).unwrap(), 0);
        assert_eq!(slice_bytes(&Int64Array::from(vec![1, 2, 3])).unwrap(), 24);
    }
}
