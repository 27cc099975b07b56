//! Shards of WebDataset: a tar whose members with one name are a sample, and whose ends of names are its
//! columns.
//!
//! ```text
//!   a/0001.jpg  a/0001.cls  a/0001.seg.png      key `a/0001`, columns `jpg`, `cls`, `seg_png`
//! ```
//!
//! `.txt`, `.text`, `.caption`, `.transcript` and `.json` are texts, `.cls`, `.id` and `.index` numbers
//! (texts, if one of them is none), everything else is a column of blobs. A first pass over the members'
//! headers finds the columns of all shards.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, LargeBinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use tar::{Archive, Entry};

use super::super::columns::blob_field;
use super::{BATCH_BYTES, BATCH_ROWS, ROW_BYTES_MAX, RowSource, text};

/// Different ends of names in one data set.
const COLUMNS_MAX: usize = 256;
const NUMBER_BYTES_MAX: u64 = 32;
const NAME_BYTES_MAX: usize = 4 << 10;
/// Bytes of what stands before a member and describes it, such as a long name: it is held whole.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// What a column of a data set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blob,
    Number,
    Text,
}

/// The columns of all shards of a data set.
#[derive(Debug, Clone, Default)]
pub(in crate::command::import) struct Members {
    columns: BTreeMap<String, Kind>,
}

/// Looks at the headers of the shards' members.
pub(super) fn members(shards: &[PathBuf]) -> Result<Members, String> {
    let mut members = Members::default();
    for shard in shards {
        let wrong = |error: String| format!("`{}`: {error}", shard.display());
        check_extensions(shard).map_err(wrong)?;
        let file = File::open(shard).map_err(|error| wrong(text(error)))?;
        let mut archive = Archive::new(file);
        let entries = archive.entries_with_seek().map_err(|error| wrong(text(error)))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| wrong(text(error)))?;
            let Some((_, column)) = sample_of(&entry) else { continue };
            let mut kind = kind_of(&column);
            if kind == Kind::Number && number(&mut entry).is_none() {
                kind = Kind::Text;
            }
            let known = members.columns.entry(column).or_insert(kind);
            if kind == Kind::Text {
                *known = Kind::Text;
            }
            if members.columns.len() > COLUMNS_MAX {
                return Err(wrong(format!(
                    "the members have more than {COLUMNS_MAX} different ends of names; give --as \
                     files to import the tar itself"
                )));
            }
        }
    }
    match members.columns.is_empty() {
        true => Err("the tar has no member of the form `name.ext`".to_owned()),
        false => Ok(members),
    }
}

/// Refuses descriptions that the reader would hold whole, of whatever size they are.
fn check_extensions(shard: &Path) -> Result<(), String> {
    let mut archive = Archive::new(File::open(shard).map_err(text)?);
    for entry in archive.entries_with_seek().map_err(text)?.raw(true) {
        let entry = entry.map_err(text)?;
        let kind = entry.header().entry_type();
        let is_extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if is_extension && entry.size() > EXTENSION_BYTES_MAX {
            return Err(format!(
                "the name or description of a member has {} bytes; at most {EXTENSION_BYTES_MAX} \
                 are read",
                entry.size()
            ));
        }
    }
    Ok(())
}

impl Members {
    fn schema(&self) -> SchemaRef {
        let mut fields = vec![Field::new("key", DataType::Utf8, false)];
        fields.extend(self.columns.iter().map(|(name, kind)| match kind {
            Kind::Blob => blob_field(name),
            Kind::Number => Field::new(name, DataType::Int64, true),
            Kind::Text => Field::new(name, DataType::Utf8, true),
        }));
        Arc::new(Schema::new(fields))
    }
}

fn kind_of(column: &str) -> Kind {
    match column.rsplit('_').next().unwrap_or(column) {
        "txt" | "text" | "caption" | "transcript" | "json" => Kind::Text,
        "cls" | "cls2" | "id" | "index" => Kind::Number,
        _ => Kind::Blob,
    }
}

/// Key and column of a member: its name up to the first dot of the last part, and what follows.
fn sample_of<R: Read>(entry: &Entry<'_, R>) -> Option<(String, String)> {
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let bytes = entry.path_bytes();
    if bytes.len() > NAME_BYTES_MAX {
        return None;
    }
    let name = String::from_utf8_lossy(&bytes);
    let name = name.trim_start_matches("./");
    let folder = name.rfind('/').map_or(0, |at| at + 1);
    let dot = name[folder..].find('.')? + folder;
    let (key, end) = (&name[..dot], &name[dot + 1..]);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let column: String = end
        .to_ascii_lowercase()
        .chars()
        .map(|character| if is_plain(character) { character } else { '_' })
        .collect();
    // Names without a stem are hidden files, such as those that some systems put beside each member.
    (dot > folder && !column.is_empty())
        .then(|| (key.to_owned(), if column == "key" { "key_".to_owned() } else { column }))
}

fn number(entry: &mut impl Read) -> Option<i64> {
    let mut text = String::new();
    entry.take(NUMBER_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

pub(super) fn open(path: &Path, members: Option<&Members>) -> Result<RowSource, String> {
    let members = match members {
        Some(members) => members.clone(),
        None => self::members(&[path.to_owned()])?,
    };
    let schema = members.schema();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let path = path.to_owned();
    // The archive lends its members one after the other, so it has a thread of its own.
    std::thread::spawn(move || {
        let mut shard = Shard { members, samples: Vec::new(), bytes: 0 };
        let mut give = |batch| sender.send(Ok(batch)).is_ok();
        // Without a word the samples so far would pass for all of them.
        let read = catch_unwind(AssertUnwindSafe(|| shard.read(&path, &mut give)))
            .unwrap_or_else(|_| Err("the tar made its reader fail".to_owned()));
        if let Err(error) = read {
            let _ = sender.send(Err(error));
        }
    });
    Ok(RowSource { schema, batches: Box::new(receiver.into_iter()) })
}

#[derive(Default)]
struct Sample {
    key: String,
    cells: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

struct Shard {
    members: Members,
    samples: Vec<Sample>,
    bytes: usize,
}

impl Shard {
    fn read(
        &mut self,
        path: &Path,
        give: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> Result<(), String> {
        let mut archive = Archive::new(File::open(path).map_err(text)?);
        let mut current = Sample::default();
        for entry in archive.entries().map_err(text)? {
            let mut entry = entry.map_err(text)?;
            let Some((key, column)) = sample_of(&entry) else { continue };
            if key != current.key {
                let done = std::mem::replace(&mut current, Sample { key, ..Sample::default() });
                if !self.push(done, give)? {
                    return Ok(());
                }
            }
            let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
            let limit = ROW_BYTES_MAX.saturating_sub(current.bytes);
            if size > limit {
                return Err(format!(
                    "the sample `{}` has more than {ROW_BYTES_MAX} bytes, which fit no message; \
                     unpack the tar and import its folder",
                    current.key
                ));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(text)?;
            if bytes.len() < size {
                return Err(format!(
                    "the tar ends inside a member of the sample `{}`",
                    current.key
                ));
            }
            current.bytes += bytes.len();
            if current.cells.insert(column.clone(), bytes).is_some() {
                return Err(format!("the sample `{}` has `{column}` twice", current.key));
            }
        }
        self.push(current, give)?;
        self.flush(give).map(|_| ())
    }

    fn push(
        &mut self,
        sample: Sample,
        give: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> Result<bool, String> {
        if sample.cells.is_empty() {
            return Ok(true);
        }
        self.bytes += sample.bytes;
        self.samples.push(sample);
        match self.bytes >= BATCH_BYTES || self.samples.len() >= BATCH_ROWS {
            true => self.flush(give),
            false => Ok(true),
        }
    }

    fn flush(&mut self, give: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool, String> {
        let samples = std::mem::take(&mut self.samples);
        self.bytes = 0;
        if samples.is_empty() {
            return Ok(true);
        }
        let keys: StringArray = samples.iter().map(|sample| Some(sample.key.as_str())).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(keys)];
        for (name, kind) in &self.members.columns {
            let cells = samples.iter().map(|sample| sample.cells.get(name));
            columns.push(column(cells, *kind)?);
        }
        RecordBatch::try_new(self.members.schema(), columns).map(give).map_err(text)
    }
}

fn column<'a>(
    cells: impl Iterator<Item = Option<&'a Vec<u8>>>,
    kind: Kind,
) -> Result<ArrayRef, String> {
    match kind {
        Kind::Blob => {
            let mut builder = LargeBinaryBuilder::new();
            cells.for_each(|cell| builder.append_option(cell));
            Ok(Arc::new(builder.finish()))
        }
        Kind::Text => {
            let mut builder = StringBuilder::new();
            for cell in cells {
                let cell = cell.map(|bytes| String::from_utf8_lossy(bytes));
                builder.append_option(cell.as_deref().map(str::trim));
            }
            Ok(Arc::new(builder.finish()))
        }
        Kind::Number => {
            let mut builder = Int64Builder::new();
            for cell in cells {
                match cell {
                    None => builder.append_null(),
                    Some(bytes) => match number(&mut bytes.as_slice()) {
                        Some(value) => builder.append_value(value),
                        None => return Err("a number of the first pass is none any more".into()),
                    },
                }
            }
            Ok(Arc::new(builder.finish()))
        }
    }
}
