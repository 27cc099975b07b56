//! CSV with a header line. The types of the columns are told from the first rows.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_csv::ReaderBuilder;
use arrow_csv::reader::{Decoder, Format};
use arrow_schema::{DataType, Field, Schema};

use super::{
    BATCH_BYTES, BYTE_ORDER_MARK, COLUMNS_MAX, ROW_BYTES_MAX, RowSource, batch_rows, text,
};

const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn open(path: &Path, delimiter: u8, sample: Option<usize>) -> Result<RowSource, String> {
    let format = Format::default().with_header(true).with_delimiter(delimiter);
    let bounded = Bounded { file: buffered(path)?, records: Records::new(delimiter) };
    let (schema, _) = format.infer_schema(bounded, sample).map_err(text)?;
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
        .with_batch_size(batch_rows(schema.fields().len()))
        .build_decoder();
    let records = Records::new(delimiter);
    let batches = Batches { file: buffered(path)?, decoder, records, is_over: false };
    Ok(RowSource { schema, batches: Box::new(batches) })
}

fn buffered(path: &Path) -> Result<BufReader<File>, String> {
    Ok(BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(text)?))
}

/// Where records end, as the parsers see it, which both hold a record whole.
#[derive(Debug, Clone)]
struct Records {
    delimiter: u8,
    place: Place,
    /// Records that ended.
    ended: u64,
    /// Bytes and delimiters of the record so far.
    bytes: usize,
    delimiters: usize,
}

/// Where in a record a byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: it ends the field, or another one behind it stands for one.
    QuoteInQuoted,
}

impl Records {
    fn new(delimiter: u8) -> Self {
        Records { delimiter, place: Place::FieldStart, ended: 0, bytes: 0, delimiters: 0 }
    }

    /// Takes bytes until a record ends; how many were taken, and whether one ended.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, bool), String> {
        for (at, byte) in bytes.iter().copied().enumerate() {
            let is_mark = self.ended == 0 && BYTE_ORDER_MARK.get(self.bytes) == Some(&byte);
            self.bytes += 1;
            self.place = match (self.place, byte) {
                (Place::FieldStart, _) if is_mark => Place::FieldStart,
                (Place::FieldStart | Place::QuoteInQuoted, b'"') => Place::Quoted,
                (Place::Quoted, b'"') => Place::QuoteInQuoted,
                (Place::Quoted, _) => Place::Quoted,
                (_, b'\n' | b'\r') => {
                    self.ended += 1;
                    (self.place, self.bytes, self.delimiters) = (Place::FieldStart, 0, 0);
                    return Ok((at + 1, true));
                }
                (_, other) if other == self.delimiter => {
                    self.delimiters += 1;
                    if self.delimiters == COLUMNS_MAX {
                        return Err(format!("a record has more than {COLUMNS_MAX} fields"));
                    }
                    Place::FieldStart
                }
                _ => Place::Plain,
            };
            if self.bytes > ROW_BYTES_MAX {
                return Err(format!(
                    "a record has more than {ROW_BYTES_MAX} bytes; is a quote not closed?"
                ));
            }
        }
        Ok((bytes.len(), false))
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let (taken, _) = self.step(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }
}

/// A reader that fails on a record that is too long, for a parser that would hold it whole.
struct Bounded {
    file: BufReader<File>,
    records: Records,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.records.take(&buffer[..read]).map_err(io::Error::other)?;
        Ok(read)
    }
}

struct Batches {
    file: BufReader<File>,
    decoder: Decoder,
    records: Records,
    is_over: bool,
}

impl Batches {
    /// Rows up to the first one that makes them as many bytes, or as many, as a batch may have.
    fn batch(&mut self) -> Result<Option<RecordBatch>, String> {
        let mut taken = 0;
        loop {
            let mut bytes = self.file.fill_buf().map_err(text)?;
            let mut is_full = false;
            if taken + bytes.len() > BATCH_BYTES {
                // The decoder gives rows only where it stands between two.
                let (end, is_end) = self.records.clone().step(bytes)?;
                (bytes, is_full) = (&bytes[..end], is_end && taken + end > BATCH_BYTES);
            }
            let decoded = self.decoder.decode(bytes).map_err(text)?;
            // Nothing is taken at the end of the file and when the batch is full.
            if decoded == 0 {
                break;
            }
            self.records.take(&bytes[..decoded])?;
            self.file.consume(decoded);
            taken += decoded;
            if is_full && let Some(batch) = self.flush()? {
                return Ok(Some(batch));
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, String> {
        self.decoder.flush().map_err(|error| {
            format!("{error}; types were told from the first rows: see --sample-rows")
        })
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let batch = self.batch().transpose();
        self.is_over = !matches!(batch, Some(Ok(_)));
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_end_where_the_parsers_end_them() {
        let ends = |text: &str| {
            let mut records = Records::new(b',');
            records.take(text.as_bytes()).unwrap();
            (records.ended, records.place)
        };
        assert_eq!(ends("a,b\n1,2\n"), (2, Place::FieldStart));
        assert_eq!(ends("a,\"b\n1\",2\n"), (1, Place::FieldStart));
        assert_eq!(ends("a,\"b\"\"\n1\",2\n"), (1, Place::FieldStart));
        assert_eq!(ends("5\",6\"\n1\n"), (2, Place::FieldStart), "quotes inside plain fields");
        assert_eq!(ends("\u{feff}\"a\nb\"\n"), (1, Place::FieldStart), "behind a byte order mark");
        assert_eq!(ends("\"a\"b\n\"c"), (1, Place::Quoted));
    }
}
