//! Columns for files, from a table beside them: what Hugging Face's ImageFolder calls `metadata.csv` or
//! `metadata.jsonl`.
//!
//! The column `path` or `file_name` names the file, by the path that is stored or by its path below the
//! manifest's own folder. `caption` fills the column of that name; each other column becomes a column of
//! the table. A file that is not listed has nulls there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch, UInt64Array};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field};
use arrow_select::concat::concat_batches;
use arrow_select::take::take;

use super::columns::file_schema;
use super::rows::{self, Options, RowFormat};
use crate::exit::Exit;

/// A manifest is held in memory.
const BYTES_MAX: u64 = 64 << 20;
const KEYS: [&str; 2] = ["path", "file_name"];

/// A manifest that was read.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Where it lies, from the root on and without links: PATHs may be written otherwise than it is.
    file: PathBuf,
    rows: HashMap<String, usize>,
    captions: Option<ArrayRef>,
    more: Vec<(Field, ArrayRef)>,
    found: AtomicU64,
}

impl Manifest {
    /// Reads a manifest whole.
    ///
    /// # Errors
    /// Wrong usage for a file that is no manifest, and for columns that the import itself makes.
    pub(super) fn read(file: &Path, blob_column: &str, labels: bool) -> Result<Manifest, Exit> {
        Manifest::parse(file, blob_column, labels)
            .map_err(|error| Exit::usage(format!("--manifest `{}`: {error}", file.display())))
    }

    fn parse(file: &Path, blob_column: &str, labels: bool) -> Result<Manifest, String> {
        let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
        if size > BYTES_MAX {
            return Err(format!("it has {size} bytes; at most {BYTES_MAX} are read"));
        }
        let extension = file.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
        let format = match extension.as_deref() {
            Some("csv") => RowFormat::Csv(b','),
            Some("tsv") => RowFormat::Csv(b'\t'),
            Some("json" | "jsonl" | "ndjson") => RowFormat::Json,
            _ => return Err("it is neither .csv, .tsv nor .jsonl".to_owned()),
        };
        // It is small, so that every row says what the types are.
        let options = Options { sample_rows: None, blob_column: None, shards: None };
        let source = rows::open(file, format, &options)?;
        let batches = source.batches.collect::<Result<Vec<_>, _>>()?;
        let all = concat_batches(&source.schema, &batches).map_err(|error| error.to_string())?;
        let own = file_schema(blob_column, &[]);
        let mut manifest = Manifest {
            file: whole(file).map_err(|error| error.to_string())?,
            rows: keys(&all)?,
            captions: None,
            more: Vec::new(),
            found: AtomicU64::new(0),
        };
        for (field, column) in all.schema().fields().iter().zip(all.columns()) {
            let name = field.name().as_str();
            if KEYS.contains(&name) {
                continue;
            }
            if name == "caption" {
                let texts = cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
                manifest.captions = Some(texts);
            } else if own.field_with_name(name).is_ok() || (labels && name == "label") {
                return Err(format!("its column `{name}` is one that the import itself makes"));
            } else {
                let field = field.as_ref().clone().with_nullable(true);
                manifest.more.push((field, column.clone()));
            }
        }
        Ok(manifest)
    }

    /// The row of a file, by the path under which it is stored or its place beside the manifest.
    pub(super) fn find(&self, path: &str, file: &Path) -> Option<usize> {
        let beside = || {
            let file = whole(file).ok()?;
            let below = file.strip_prefix(self.file.parent()?).ok()?;
            self.rows.get(below.to_str()?)
        };
        let row = self.rows.get(path).or_else(beside).copied();
        self.found.fetch_add(u64::from(row.is_some()), Ordering::Relaxed);
        row
    }

    /// Whether this is the manifest, which is not a file of the data set.
    pub(super) fn is_at(&self, file: &Path) -> bool {
        file.file_name() == self.file.file_name() && whole(file).is_ok_and(|file| file == self.file)
    }

    /// Rows that no file was found for.
    pub(super) fn unused(&self) -> u64 {
        (self.rows.len() as u64).saturating_sub(self.found.load(Ordering::Relaxed))
    }

    /// The caption in a row.
    pub(super) fn caption(&self, row: usize) -> Option<String> {
        let captions = self.captions.as_ref()?.as_string::<i32>();
        let caption = captions.is_valid(row).then(|| captions.value(row).trim())?;
        (!caption.is_empty()).then(|| caption.to_owned())
    }

    /// The columns that it adds.
    pub(super) fn fields(&self) -> Vec<Field> {
        self.more.iter().map(|(field, _)| field.clone()).collect()
    }

    /// These columns for some rows; nulls where a file is not listed.
    pub(super) fn columns(
        &self,
        rows: &[Option<usize>],
    ) -> Result<Vec<(Field, ArrayRef)>, ArrowError> {
        let rows: UInt64Array = rows.iter().map(|row| row.map(|row| row as u64)).collect();
        let taken = self
            .more
            .iter()
            .map(|(field, column)| take(column, &rows, None).map(|column| (field.clone(), column)));
        taken.collect()
    }
}

/// A file in its folder, from the root on and without links.
fn whole(file: &Path) -> io::Result<PathBuf> {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // A file that is a link itself keeps its own name.
    Ok(fs::canonicalize(folder)?.join(file.file_name().unwrap_or_default()))
}

fn keys(all: &RecordBatch) -> Result<HashMap<String, usize>, String> {
    let column = KEYS.iter().find_map(|name| all.column_by_name(name));
    let column = column.ok_or("it has no column `path` or `file_name`")?;
    let names = cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
    let names = names.as_string::<i32>();
    let mut rows = HashMap::with_capacity(names.len());
    for row in 0..names.len() {
        if names.is_null(row) {
            return Err(format!("its row {} names no file", row + 1));
        }
        let name = names.value(row).trim_start_matches("./").to_owned();
        if let Some(other) = rows.insert(name, row) {
            return Err(format!(
                "its rows {} and {} name one file, `{}`",
                other + 1,
                row + 1,
                names.value(row)
            ));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, text: &str) -> Result<Manifest, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        Manifest::parse(&file, "data", false)
    }

    #[test]
    fn columns_follow_their_files() {
        let found =
            manifest("m.csv", "file_name,caption,stars\na.png,A cat,3\n./b/c.png,,5\n").unwrap();
        let names: Vec<String> = found.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["stars"]);
        let at = |path: &str| found.find(path, Path::new("/elsewhere"));
        assert_eq!((at("a.png"), at("b/c.png"), at("c.png")), (Some(0), Some(1), None));
        assert_eq!(found.caption(0).as_deref(), Some("A cat"));
        assert_eq!(found.caption(1), None);
        let columns = found.columns(&[Some(1), None]).unwrap();
        assert_eq!((columns[0].1.len(), columns[0].1.null_count()), (2, 1));
        assert_eq!(found.unused(), 0);
    }

    #[test]
    fn a_manifest_that_is_none_says_so() {
        let refusal = |name: &str, text: &str| manifest(name, text).unwrap_err();
        assert!(refusal("m.csv", "name\na\n").contains("file_name"));
        assert!(refusal("m.csv", "path,width\na,1\n").contains("width"));
        assert!(refusal("m.csv", "path\na\na\n").contains("rows 1 and 2"));
        assert!(refusal("m.txt", "path\na\n").contains("neither"));
        assert!(refusal("m.jsonl", "[]").contains("array"));
    }
}
