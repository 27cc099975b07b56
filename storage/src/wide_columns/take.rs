//! Rows by id, their wide columns apart: lance says where the rows lie and reads the columns beside.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::Buffer;
use arrow_schema::SchemaRef;
use lakebed_core::{Error, ErrorKind, Result};
use lance::dataset::ProjectionRequest;
use lance_core::ROW_ADDR;
use lance_core::datatypes::Schema;

use super::{Pages, WideColumn, WideColumns, array_of, is_wide};
use crate::lance_error::from_io;
use crate::scan::{Projection, ScanSpec};
use crate::snapshot::Snapshot;

/// A take of fewer rows is not worth opening the files for.
const ROWS_MIN: usize = 256;
/// Threads that read the values of one column at once, which a disk answers faster than one.
const THREADS: usize = 8;

/// A take with the columns that are read apart.
#[derive(Clone)]
pub(crate) struct WideTake {
    columns: Arc<WideColumns>,
    schema: SchemaRef,
}

impl Snapshot {
    /// The wide columns of a take of `rows` rows; nothing where there is none or it is not worth while.
    ///
    /// # Errors
    /// Those of opening files.
    pub(crate) async fn wide_take(
        &self,
        spec: &ScanSpec,
        schema: &SchemaRef,
        rows: usize,
    ) -> Result<Option<WideTake>> {
        let is_plain = !spec.blob_bytes
            && !matches!(spec.projection, Projection::Expressions(_))
            && schema.fields().iter().any(|field| is_wide(field.data_type()))
            && self.table().shared.root.local().is_some();
        if !is_plain || rows < ROWS_MIN {
            return Ok(None);
        }
        let columns = self.wide_columns(schema, &self.whole_fragments()).await?;
        Ok(columns.map(|columns| WideTake { columns: Arc::new(columns), schema: schema.clone() }))
    }
}

impl WideTake {
    /// What lance is to take: the other columns, and where the rows lie.
    pub(crate) fn others(&self, stored: &Schema) -> ProjectionRequest {
        let others = self.schema.fields().iter().map(|field| field.name().as_str());
        let others = others.filter(|name| *name != ROW_ADDR && !self.columns.has(name));
        ProjectionRequest::from_columns(others.chain([ROW_ADDR]), stored)
    }

    /// Adds the wide columns to a batch of the others.
    ///
    /// # Errors
    /// Those of reading files.
    pub(crate) async fn complete(&self, others: RecordBatch) -> Result<RecordBatch> {
        let left_out = || Error::internal("a take left a column out");
        let addresses = others.column_by_name(ROW_ADDR).ok_or_else(left_out)?;
        let addresses = addresses.as_primitive_opt::<UInt64Type>().ok_or_else(left_out)?;
        let addresses: Arc<[u64]> = addresses.values().iter().copied().collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            columns.push(match self.columns.columns.get(field.name()) {
                Some(wide) => wide.take(&addresses).await?,
                None => others.column_by_name(field.name()).cloned().ok_or_else(left_out)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(others.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| Error::internal("columns of a take do not fit").with_source(error))
    }
}

impl WideColumns {
    fn has(&self, name: &str) -> bool {
        self.columns.contains_key(name)
    }
}

impl WideColumn {
    /// The values at row addresses, in their order.
    async fn take(&self, addresses: &Arc<[u64]>) -> Result<ArrayRef> {
        // Read in the order of the files, put down in the order of the addresses.
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        order.sort_unstable_by_key(|at| addresses[*at]);
        let share = order.len().div_ceil(THREADS).max(1);
        let mut reading = Vec::with_capacity(THREADS);
        for part in order.chunks(share) {
            let mut places = Vec::with_capacity(part.len());
            for at in part {
                places.push((*at, self.place(addresses[*at])?));
            }
            let width = self.width;
            reading.push(tokio::task::spawn_blocking(move || read_values(places, width)));
        }
        let mut values = vec![0; addresses.len() * self.width];
        for part in reading {
            let (places, read) = part.await.map_err(|error| {
                Error::internal("reading values broke off").with_source(error)
            })??;
            for (at, value) in places.into_iter().zip(read.chunks_exact(self.width)) {
                values[at * self.width..][..self.width].copy_from_slice(value);
            }
        }
        let values = Buffer::from_vec(values);
        Ok(make_array(array_of(&self.data_type, addresses.len(), values)?))
    }

    /// The pages of a row address's fragment, and where the value begins in its file.
    fn place(&self, address: u64) -> Result<(Arc<Pages>, u64)> {
        let (fragment, row) = ((address >> 32) as u32, address & u64::from(u32::MAX));
        let pages = self.pages.get(&fragment);
        let found = pages.and_then(|pages| Some((pages.clone(), pages.offset(row, self.width)?)));
        found.ok_or_else(|| Error::internal("a take left its fragments"))
    }
}

impl Pages {
    fn offset(&self, row: u64, width: usize) -> Option<u64> {
        let page = self.starts.partition_point(|(first, _)| *first <= row).checked_sub(1)?;
        let (first, position) = self.starts[page];
        // The last entry is the end.
        (page + 1 < self.starts.len()).then(|| position + (row - first) * width as u64)
    }
}

/// Reads values one after the other; also says whose they are.
fn read_values(
    places: Vec<(usize, (Arc<Pages>, u64))>,
    width: usize,
) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut values = vec![0; places.len() * width];
    for ((_, (pages, offset)), value) in places.iter().zip(values.chunks_exact_mut(width)) {
        pages.file.read_exact_at(value, *offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::Corrupt, "a data file ends within a page")
            }
            _ => from_io(error, "read a data file"),
        })?;
    }
    Ok((places.into_iter().map(|(at, _)| at).collect(), values))
}
