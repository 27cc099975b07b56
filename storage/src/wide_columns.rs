//! Columns of vectors, read straight from their pages.
//!
//! Why it exists: a scan of embeddings is bound by copies. Lance reads a page of several batches into
//! memory and copies each batch out of it; half of what a server of vectors does is one or the other.
//! Where a page holds values of one width one after the other and nothing else, a batch's values are one
//! range of the file, read once into the memory that goes to the client. Lance reads the columns beside.
//!
//! ```text
//!   lance ──► batches of the other columns ──┐  which rows?
//!                                            ├──► values of the same rows ──► batches of all columns
//!   file ──► pages of the wide columns ──────┘
//! ```
//!
//! A column is read this way only if all its pages in all files of the read are of that kind
//! (`FullZipLayout` without control words over flat values: lance-encoding's `fullzip.rs`), no row is
//! deleted, and the lake is local: elsewhere the network is slower than a copy. Everything else is left to
//! lance, and a test compares the two.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_schema::{DataType, SchemaRef};
use futures::{StreamExt, TryStreamExt};
use lakebed_core::{Error, ErrorKind, Result};
use lance_encoding::decoder::{PageEncoding, PageInfo};
use lance_encoding::format::metadata::compressive_encoding::Compression;
use lance_encoding::format::metadata::full_zip_layout::Details;
use lance_encoding::format::metadata::{CompressiveEncoding, page_layout::Layout};
use lance_file::reader::FileReader;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_table::format::{DataFile, Fragment};

mod take;
pub(crate) use take::WideTake;

use crate::lance_error::{from_io, from_lance};
use crate::scan::{BATCH_BYTES, BATCH_ROWS, BatchStream, Projection, ScanSpec, Slice};
use crate::snapshot::Snapshot;

/// Bytes of a value from which it is worth while; lance stores smaller ones in another way.
const VALUE_BYTES_MIN: usize = 256;
/// A read of more files than these is left to lance: each is opened before the first row is sent.
const FILES_MAX: usize = 8;
/// Batches that are read ahead of the one that is sent.
const READ_AHEAD: usize = 2;

/// The wide columns of a read.
struct WideColumns {
    /// By name.
    columns: HashMap<String, WideColumn>,
}

struct WideColumn {
    data_type: DataType,
    width: usize,
    /// By fragment.
    pages: HashMap<u32, Arc<Pages>>,
}

/// Where the values of a column lie in one file.
struct Pages {
    file: Arc<File>,
    /// The first row of each page and where its values begin, and a last entry for the end.
    starts: Vec<(u64, u64)>,
}

impl Snapshot {
    /// Reads `spec` with its wide columns apart; nothing where it has none, or cannot be read so.
    ///
    /// # Errors
    /// As [`Snapshot::scan`]; those of opening files.
    pub(crate) async fn scan_wide(
        &self,
        spec: &ScanSpec,
    ) -> Result<Option<(SchemaRef, BatchStream)>> {
        let fields = &self.dataset.schema().fields;
        let has_wide = fields.iter().any(|field| is_wide(&field.data_type()));
        let is_plain = spec.filter.is_none()
            && spec.rows.is_none()
            && spec.limit.is_none()
            && spec.offset.is_none()
            && !spec.blob_bytes
            && !matches!(spec.projection, Projection::Expressions(_));
        if !has_wide || !is_plain || self.table().shared.root.local().is_none() {
            return Ok(None);
        }
        let schema = self.scan_schema(spec).await?;
        let slices = spec.slices.clone().unwrap_or_else(|| self.whole_fragments());
        let Some(wide) = self.wide_columns(&schema, &slices).await? else { return Ok(None) };

        let rows = self.rows_of(spec, BATCH_BYTES, BATCH_ROWS).await?;
        let others: Vec<String> = schema
            .fields()
            .iter()
            .filter(|field| !wide.columns.contains_key(field.name()))
            .map(|field| field.name().clone())
            .collect();
        let others = match others.is_empty() {
            true => counts(&slices, rows).boxed(),
            false => {
                let spec = ScanSpec {
                    projection: Projection::Names(others),
                    slices: Some(slices.clone()),
                    unordered: false,
                    ..spec.clone()
                };
                self.scan_rows(&spec, rows).await?.1
            }
        };
        let wide = Arc::new(wide);
        let mut position = Position { slices, at: 0, row: 0 };
        let (snapshot, answer) = (self.clone(), schema.clone());
        let batches = others
            .map(move |batch| {
                let batch = batch?;
                let runs = position.take(batch.num_rows() as u64)?;
                Ok((batch, runs))
            })
            .map_ok(move |(batch, runs)| wide.clone().complete(batch, runs, answer.clone()))
            .try_buffered(READ_AHEAD)
            .inspect(move |_| {
                // Keeps the pin for as long as the stream lives.
                let _ = &snapshot;
            });
        Ok(Some((schema, batches.boxed())))
    }

    async fn wide_columns(
        &self,
        schema: &SchemaRef,
        slices: &[Slice],
    ) -> Result<Option<WideColumns>> {
        let mut columns: HashMap<String, WideColumn> = HashMap::new();
        for field in schema.fields() {
            let data_type = field.data_type().clone();
            if is_wide(&data_type) {
                let width = value_bytes(&data_type).unwrap_or(0);
                let column = WideColumn { data_type, width, pages: HashMap::new() };
                columns.insert(field.name().clone(), column);
            }
        }
        let mut fragments: Vec<u32> = slices.iter().map(|slice| slice.fragment).collect();
        fragments.dedup();
        if columns.is_empty() || fragments.is_empty() || fragments.len() > FILES_MAX {
            return Ok(None);
        }
        for fragment in fragments {
            let Some(found) = self.dataset.get_fragment(fragment as usize) else { return Ok(None) };
            let found = found.metadata().clone();
            let rows = found.physical_rows.unwrap_or(0) as u64;
            // Slices come from tickets, which may say anything; lance refuses what does not exist.
            let exist =
                |slice: &Slice| slice.start.checked_add(slice.rows).is_some_and(|end| end <= rows);
            let mut of_this = slices.iter().filter(|slice| slice.fragment == fragment);
            if found.deletion_file.is_some() || !of_this.all(exist) {
                return Ok(None);
            }
            let mut opened: HashMap<String, Option<OpenFile>> = HashMap::new();
            let mut kept = HashMap::new();
            for (name, mut column) in columns {
                let Some(id) = self.dataset.schema().field(&name).map(|field| field.id) else {
                    continue;
                };
                let Some((file, index)) = place_of(&found, id) else { continue };
                if !opened.contains_key(&file.path) {
                    opened.insert(file.path.clone(), self.open_file(file).await?);
                }
                let Some(Some(open)) = opened.get(&file.path) else { continue };
                let Some(starts) = open.starts(index, column.width) else { continue };
                let pages = Pages { file: open.file.clone(), starts };
                column.pages.insert(fragment, Arc::new(pages));
                kept.insert(name, column);
            }
            columns = kept;
            if columns.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(WideColumns { columns }))
    }

    /// A data file with what its footer says; nothing where the lake is not local or the file is old.
    async fn open_file(&self, file: &DataFile) -> Result<Option<OpenFile>> {
        let path = object_store::path::Path::from_iter(
            self.dataset
                .data_dir()
                .parts()
                .chain(object_store::path::Path::from(file.path.as_str()).parts()),
        );
        let Some(local) = self.table().shared.root.folder_of(&path)? else { return Ok(None) };
        if (file.file_major_version, file.file_minor_version) < FIRST_WITH_PAGE_LAYOUTS {
            return Ok(None);
        }
        let store = self.dataset.object_store(None).await.map_err(from_lance)?;
        let config = SchedulerConfig::new(FOOTER_BYTES);
        let scheduler = ScanScheduler::new(store, config);
        let scheduler =
            scheduler.open_file(&path, &file.file_size_bytes).await.map_err(from_lance)?;
        let footer = FileReader::read_all_metadata(&scheduler).await.map_err(from_lance)?;
        let file = tokio::task::spawn_blocking(move || File::open(local))
            .await
            .map_err(|error| Error::internal("opening a file broke off").with_source(error))?
            .map_err(|error| from_io(error, "open a data file"))?;
        let columns = footer.column_infos.iter().map(|column| column.page_infos.clone()).collect();
        Ok(Some(OpenFile { file: Arc::new(file), columns }))
    }
}

/// Bytes of a footer that are read ahead.
const FOOTER_BYTES: u64 = 16 << 20;
/// Files before version 2.1 describe their pages in another way.
const FIRST_WITH_PAGE_LAYOUTS: (u32, u32) = (2, 1);

struct OpenFile {
    file: Arc<File>,
    columns: Vec<Arc<[PageInfo]>>,
}

impl OpenFile {
    /// The pages of a column, if all of them hold nothing but values of `width` bytes.
    fn starts(&self, column: usize, width: usize) -> Option<Vec<(u64, u64)>> {
        let pages = self.columns.get(column)?;
        let mut starts = Vec::with_capacity(pages.len() + 1);
        let mut row = 0;
        for page in pages.iter() {
            let [(position, bytes)] = *page.buffer_offsets_and_sizes else { return None };
            if !holds_values(page, width) || bytes != page.num_rows * width as u64 {
                return None;
            }
            starts.push((row, position));
            row += page.num_rows;
        }
        starts.push((row, 0));
        Some(starts)
    }
}

/// The file of a fragment that has a field, and the field's column there.
fn place_of(fragment: &Fragment, field: i32) -> Option<(&DataFile, usize)> {
    // Cells of it may lie elsewhere.
    if fragment.overlays.iter().any(|overlay| overlay.data_file.fields.contains(&field)) {
        return None;
    }
    let mut places = fragment.files.iter().filter_map(|file| {
        let at = file.fields.iter().position(|id| *id == field)?;
        let column = usize::try_from(*file.column_indices.get(at)?).ok()?;
        Some((file, column))
    });
    let place = places.next()?;
    (places.next().is_none() && place.0.base_id.is_none()).then_some(place)
}

fn holds_values(page: &PageInfo, width: usize) -> bool {
    let PageEncoding::Structural(layout) = &page.encoding else { return false };
    let Some(Layout::FullZipLayout(layout)) = &layout.layout else { return false };
    let bits = width as u64 * 8;
    layout.bits_rep == 0
        && layout.bits_def == 0
        && layout.details == u32::try_from(bits).ok().map(Details::BitsPerValue)
        && layout.value_compression.as_ref().is_some_and(|values| flat_bits(values) == Some(bits))
}

/// The bits of each value where nothing is compressed and nothing can be null.
fn flat_bits(encoding: &CompressiveEncoding) -> Option<u64> {
    match encoding.compression.as_ref()? {
        Compression::Flat(flat) if flat.data.is_none() => Some(flat.bits_per_value),
        Compression::FixedSizeList(list) if !list.has_validity => {
            flat_bits(list.values.as_deref()?)?.checked_mul(list.items_per_value)
        }
        _ => None,
    }
}

fn is_wide(data_type: &DataType) -> bool {
    value_bytes(data_type).is_some_and(|width| width >= VALUE_BYTES_MIN)
}

/// The bytes of each value of a type whose memory is one buffer.
fn value_bytes(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        DataType::FixedSizeList(child, length) => {
            value_bytes(child.data_type())?.checked_mul(usize::try_from(*length).ok()?)
        }
        other => other.primitive_width(),
    }
}

/// An array without nulls over one buffer of values.
fn array_of(data_type: &DataType, rows: usize, values: Buffer) -> Result<ArrayData> {
    let builder = ArrayData::builder(data_type.clone()).len(rows);
    let builder = match data_type {
        DataType::FixedSizeList(child, length) => {
            let length = usize::try_from(*length).unwrap_or(0);
            builder.add_child_data(array_of(child.data_type(), rows * length, values)?)
        }
        _ => builder.add_buffer(values),
    };
    let built = builder.align_buffers(true).build();
    built.map_err(|error| Error::internal("values of a column do not fit").with_source(error))
}

/// Batches without columns that say how many rows come next.
fn counts(slices: &[Slice], rows: u64) -> impl futures::Stream<Item = Result<RecordBatch>> + use<> {
    let mut batches = Vec::new();
    for slice in slices {
        for start in (0..slice.rows).step_by(usize::try_from(rows).unwrap_or(1)) {
            batches.push(rows.min(slice.rows - start));
        }
    }
    futures::stream::iter(batches).map(|rows| {
        let options = RecordBatchOptions::new().with_row_count(usize::try_from(rows).ok());
        let schema = Arc::new(arrow_schema::Schema::empty());
        RecordBatch::try_new_with_options(schema, Vec::new(), &options)
            .map_err(|error| Error::internal("count rows").with_source(error))
    })
}

/// How far a read has come.
struct Position {
    slices: Vec<Slice>,
    /// The slice, and the rows that were read of it.
    at: usize,
    row: u64,
}

impl Position {
    /// The next rows, as runs of one fragment each.
    fn take(&mut self, mut rows: u64) -> Result<Vec<(u32, Range<u64>)>> {
        let mut runs = Vec::new();
        while rows > 0 {
            let slice = self
                .slices
                .get(self.at)
                .ok_or_else(|| Error::internal("a read gave more rows than the version has"))?;
            let taken = rows.min(slice.rows - self.row);
            let start = slice.start + self.row;
            if taken > 0 {
                runs.push((slice.fragment, start..start + taken));
            }
            rows -= taken;
            self.row += taken;
            if self.row == slice.rows {
                (self.at, self.row) = (self.at + 1, 0);
            }
        }
        Ok(runs)
    }
}

impl WideColumns {
    /// Adds the wide columns to a batch of the others.
    async fn complete(
        self: Arc<Self>,
        others: RecordBatch,
        runs: Vec<(u32, Range<u64>)>,
        schema: SchemaRef,
    ) -> Result<RecordBatch> {
        let work = move || {
            let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
            for field in schema.fields() {
                columns.push(match self.columns.get(field.name()) {
                    Some(wide) => wide.read(&runs, others.num_rows())?,
                    None => others
                        .column_by_name(field.name())
                        .cloned()
                        .ok_or_else(|| Error::internal("a read left a column out"))?,
                });
            }
            let options = RecordBatchOptions::new().with_row_count(Some(others.num_rows()));
            RecordBatch::try_new_with_options(schema, columns, &options)
                .map_err(|error| Error::internal("columns of a read do not fit").with_source(error))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal("reading values broke off").with_source(error))?
    }
}

impl WideColumn {
    fn read(&self, runs: &[(u32, Range<u64>)], rows: usize) -> Result<ArrayRef> {
        let mut values = Vec::with_capacity(rows * self.width);
        for (fragment, run) in runs {
            let pages = self
                .pages
                .get(fragment)
                .ok_or_else(|| Error::internal("a read left its fragments"))?;
            pages.read(run.clone(), self.width, &mut values)?;
        }
        Ok(make_array(array_of(&self.data_type, rows, Buffer::from_vec(values))?))
    }
}

impl Pages {
    /// Appends the values of rows.
    fn read(&self, rows: Range<u64>, width: usize, values: &mut Vec<u8>) -> Result<()> {
        let mut row = rows.start;
        while row < rows.end {
            let page = self.starts.partition_point(|(first, _)| *first <= row) - 1;
            let (first, position) = self.starts[page];
            let Some((end, _)) = self.starts.get(page + 1) else {
                return Err(Error::internal("a read passed the end of a column"));
            };
            let until = rows.end.min(*end);
            let offset = position + (row - first) * width as u64;
            let bytes = usize::try_from(until - row).unwrap_or(usize::MAX) * width;
            read_at(&self.file, offset, bytes, values)?;
            row = until;
        }
        Ok(())
    }
}

/// Appends `bytes` of a file from `offset` to `values`, which has room for them.
fn read_at(file: &File, mut offset: u64, bytes: usize, values: &mut Vec<u8>) -> Result<()> {
    let end = values.len() + bytes;
    while values.len() < end {
        let had = values.len();
        let room = &mut values.spare_capacity_mut()[..end - had];
        let read = match rustix::io::pread(file, room, offset) {
            Ok((read, _)) => read.len(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(from_io(error.into(), "read a data file")),
        };
        if read == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "a data file ends within a page"));
        }
        // SAFETY: `pread` has written that many bytes behind the length.
        unsafe { values.set_len(had + read) };
        offset += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
