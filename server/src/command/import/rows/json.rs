//! JSON lines: an object a line. The types of the columns are told from the first rows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_json::ReaderBuilder;
use arrow_json::reader::{Decoder, infer_json_schema};
use arrow_schema::Schema;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{BATCH_BYTES, BYTE_ORDER_MARK, RowSource, batch_rows, head, text};

/// Bytes of one line.
const LINE_BYTES_MAX: u64 = 16 << 20;
const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn open(path: &Path, sample: Option<usize>) -> Result<RowSource, String> {
    let first = head(path, 4_096)?;
    let first = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&first);
    let first = first.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        None => return Err("the file is empty".to_owned()),
        Some(b'{') => {}
        Some(b'[') => {
            return Err(
                "the file is one JSON array; JSON lines are read, an object a line".to_owned()
            );
        }
        Some(_) => return Err("the file does not begin with an object of JSON".to_owned()),
    }
    let bounded = BufReader::with_capacity(BUFFER_BYTES, Lines { file: begin(path)?, line: 0 });
    let (schema, _) = infer_json_schema(bounded, sample).map_err(text)?;
    let schema = Arc::new(in_order(schema, path)?);
    let rows = batch_rows(schema.fields().len());
    let decoder = ReaderBuilder::new(Arc::clone(&schema))
        .with_batch_size(rows)
        // A field that the first rows did not have must not be lost.
        .with_strict_mode(true)
        .build_decoder()
        .map_err(text)?;
    let batches =
        Batches { file: begin(path)?, decoder, rows, line: Vec::new(), lines: 0, is_over: false };
    Ok(RowSource { schema, batches: Box::new(batches) })
}

/// The file behind the byte order mark that some writers put before a text.
fn begin(path: &Path) -> Result<BufReader<File>, String> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(text)?);
    if file.fill_buf().map_err(text)?.starts_with(BYTE_ORDER_MARK) {
        file.consume(BYTE_ORDER_MARK.len());
    }
    Ok(file)
}

/// The columns as the first object has them; those that only later ones have stand behind.
fn in_order(schema: Schema, path: &Path) -> Result<Schema, String> {
    let mut line = Vec::new();
    begin(path)?.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(text)?;
    let Ok(Names(names)) = serde_json::from_slice(&line) else { return Ok(schema) };
    let places: HashMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let place = |name: &str| places.get(name).copied().unwrap_or(names.len());
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.sort_by_cached_key(|field| (place(field.name()), field.name().clone()));
    Ok(Schema::new(fields))
}

/// The names of an object in their order.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(NamesVisitor)
    }
}

/// A reader that fails on a line that is too long, for a parser that would hold it whole.
struct Lines {
    file: BufReader<File>,
    line: u64,
}

impl std::io::Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.line += read as u64;
        if let Some(end) = buffer[..read].iter().rposition(|byte| *byte == b'\n') {
            self.line = (read - end - 1) as u64;
        } else if self.line > LINE_BYTES_MAX {
            return Err(std::io::Error::other(too_long()));
        }
        Ok(read)
    }
}

fn too_long() -> String {
    format!("a line has more than {LINE_BYTES_MAX} bytes")
}

struct Batches {
    file: BufReader<File>,
    decoder: Decoder,
    /// Rows of one batch.
    rows: usize,
    line: Vec<u8>,
    lines: u64,
    is_over: bool,
}

impl Batches {
    fn batch(&mut self) -> Result<Option<RecordBatch>, String> {
        let mut bytes = 0;
        while bytes < BATCH_BYTES && self.decoder.len() < self.rows {
            self.line.clear();
            let limit = LINE_BYTES_MAX + 1;
            let read = self.file.by_ref().take(limit).read_until(b'\n', &mut self.line);
            let read = read.map_err(text)?;
            if read == 0 {
                break;
            }
            self.lines += 1;
            let at = |error: String| format!("line {}: {error}", self.lines);
            if self.line.len() as u64 > LINE_BYTES_MAX {
                return Err(at(too_long()));
            }
            bytes += read;
            let taken = self.decoder.decode(&self.line).map_err(|error| at(text(error)))?;
            if self.decoder.has_partial_record() {
                return Err(at("the object does not end in its line".to_owned()));
            }
            if taken < self.line.len()
                && self.line[taken..].iter().any(|b| !b.is_ascii_whitespace())
            {
                return Err(at("more than one object stands in the line".to_owned()));
            }
        }
        let end = self.lines;
        self.decoder.flush().map_err(|error| {
            format!(
                "up to line {end}: {error}; types were told from the first rows: see --sample-rows"
            )
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
