//! CSV with a header line. The types of the columns are told from the first rows.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow_csv::ReaderBuilder;
use arrow_csv::reader::{Decoder, Format};
use arrow_schema::{DataType, Field, Schema};

use super::{BATCH_ROWS, RowSource, text};

/// Bytes that may go into one batch: beyond this a quote was not closed, or rows are no rows.
const BATCH_BYTES_MAX: usize = 64 << 20;
const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn open(path: &Path, delimiter: u8, sample: Option<usize>) -> Result<RowSource, String> {
    let format = Format::default().with_header(true).with_delimiter(delimiter);
    let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(text)?);
    let (schema, _) = format.infer_schema(file, sample).map_err(text)?;
    if schema.fields().is_empty() {
        return Err("the file has no header line".to_owned());
    }
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let kind = match field.data_type() {
                // A column that is empty as far as it was looked at.
                DataType::Null => DataType::Utf8,
                other => other.clone(),
            };
            Field::new(field.name().trim_start_matches('\u{feff}'), kind, true)
        })
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let decoder = ReaderBuilder::new(Arc::clone(&schema))
        .with_format(format)
        .with_batch_size(BATCH_ROWS)
        .build_decoder();
    let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(text)?);
    Ok(RowSource { schema, batches: Box::new(Batches { file, decoder, is_over: false }) })
}

struct Batches {
    file: BufReader<File>,
    decoder: Decoder,
    is_over: bool,
}

impl Batches {
    fn batch(&mut self) -> Result<Option<arrow_array::RecordBatch>, String> {
        let mut taken = 0;
        loop {
            let bytes = self.file.fill_buf().map_err(text)?;
            let decoded = self.decoder.decode(bytes).map_err(text)?;
            // Nothing is taken at the end of the file and when the batch is full.
            if decoded == 0 {
                break;
            }
            self.file.consume(decoded);
            taken += decoded;
            if taken > BATCH_BYTES_MAX {
                return Err(format!(
                    "{BATCH_ROWS} rows have more than {BATCH_BYTES_MAX} bytes; is a quote not closed?"
                ));
            }
        }
        self.decoder.flush().map_err(|error| {
            format!("{error}; types were told from the first rows: see --sample-rows")
        })
    }
}

impl Iterator for Batches {
    type Item = Result<arrow_array::RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let batch = self.batch().transpose();
        self.is_over = !matches!(batch, Some(Ok(_)));
        batch
    }
}
