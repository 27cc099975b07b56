//! How rows are printed: aligned for people, or as JSON lines, CSV or Arrow for programs.

use std::io::{BufWriter, Write};

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;
use futures::{Stream, StreamExt as _};

use crate::exit::Exit;
use crate::flight_client::FlightFailure;
use crate::output::{print, print_table};

/// Rows that are aligned; more are read by programs.
const TABLE_ROWS_MAX: usize = 1_000;
/// Characters of a cell, of which a vector has many.
const CELL_CHARS_MAX: usize = 100;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RowsFormat {
    /// Aligned columns, at most 1,000 rows.
    #[default]
    Table,
    /// One JSON object in a line.
    Json,
    /// CSV with a header.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

/// Prints the batches of an answer as they come.
///
/// # Errors
/// What the server answered; a reader of the output that closed its end is a quiet success.
pub(crate) async fn print_rows(
    batches: impl Stream<Item = Result<RecordBatch, FlightFailure>>,
    format: RowsFormat,
) -> Result<(), Exit> {
    let mut batches = std::pin::pin!(batches);
    if format == RowsFormat::Table {
        return table(batches).await;
    }
    let mut writer: Option<Writer> = None;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(Writer::new(format, &batch)?),
        };
        if !writer.write(&batch)? {
            return Ok(());
        }
    }
    match writer {
        Some(writer) => writer.finish(),
        None => Ok(()),
    }
}

type Out = BufWriter<std::io::Stdout>;

enum Writer {
    Json(arrow_json::LineDelimitedWriter<Out>),
    Csv(Box<arrow_csv::Writer<Out>>),
    Arrow(Box<arrow_ipc::writer::StreamWriter<Out>>),
}

impl Writer {
    fn new(format: RowsFormat, batch: &RecordBatch) -> Result<Self, Exit> {
        let out = BufWriter::new(std::io::stdout());
        Ok(match format {
            RowsFormat::Csv => Writer::Csv(Box::new(arrow_csv::Writer::new(out))),
            RowsFormat::Arrow => {
                let writer = arrow_ipc::writer::StreamWriter::try_new(out, &batch.schema());
                Writer::Arrow(Box::new(writer.map_err(|error| Exit::failed(error.to_string()))?))
            }
            RowsFormat::Json | RowsFormat::Table => {
                Writer::Json(arrow_json::LineDelimitedWriter::new(out))
            }
        })
    }

    /// False when nobody reads any more.
    fn write(&mut self, batch: &RecordBatch) -> Result<bool, Exit> {
        let written = match self {
            Writer::Json(writer) => writer.write(batch),
            Writer::Csv(writer) => writer.write(batch),
            Writer::Arrow(writer) => writer.write(batch),
        };
        quiet(written.map_err(|error| error.to_string()))
    }

    fn finish(self) -> Result<(), Exit> {
        let mut out = match self {
            Writer::Json(mut writer) => {
                quiet(writer.finish().map_err(|error| error.to_string()))?;
                writer.into_inner()
            }
            Writer::Csv(writer) => writer.into_inner(),
            Writer::Arrow(writer) => match writer.into_inner() {
                Ok(out) => out,
                Err(error) => return quiet(Err(error.to_string())).map(|_| ()),
            },
        };
        quiet(out.flush().map_err(|error| error.to_string())).map(|_| ())
    }
}

fn quiet(written: Result<(), String>) -> Result<bool, Exit> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.contains("Broken pipe") => Ok(false),
        Err(error) => Err(Exit::failed(format!("write to standard output: {error}"))),
    }
}

async fn table(
    mut batches: std::pin::Pin<&mut impl Stream<Item = Result<RecordBatch, FlightFailure>>>,
) -> Result<(), Exit> {
    let options = FormatOptions::default().with_null("-").with_display_error(true);
    let (mut titles, mut rows) = (Vec::new(), Vec::new());
    let mut is_cut = false;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        titles = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        let columns = batch.columns().iter();
        let columns = columns.map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns: Vec<ArrayFormatter<'_>> =
            columns.collect::<Result<_, _>>().map_err(|error| Exit::failed(error.to_string()))?;
        for row in 0..batch.num_rows() {
            if rows.len() == TABLE_ROWS_MAX {
                is_cut = true;
                break;
            }
            rows.push(columns.iter().map(|column| cell(&column.value(row).to_string())).collect());
        }
        if is_cut {
            break;
        }
    }
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    print_table(&titles, &rows)?;
    match is_cut {
        true => print(&format!("the first {TABLE_ROWS_MAX} rows; `--format json` gives all")),
        false => Ok(()),
    }
}

/// A value as a cell: no control characters, and not too long.
fn cell(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(CELL_CHARS_MAX)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if text.chars().nth(CELL_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_and_harmless() {
        assert_eq!(cell("a\u{1b}[2Jb\n"), "a [2Jb ");
        assert_eq!(cell(&"x".repeat(200)).chars().count(), CELL_CHARS_MAX + 1);
    }
}
