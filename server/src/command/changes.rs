//! `lakebed changes TABLE --from VERSION|TAG|TIME`: what changed in a table.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{RecordBatch, StringArray};
use arrow_schema::{DataType, Field, FieldRef, Schema};
use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use http::Method;
use lakebed_proto::changes::{ChangesCommand, Kind, Point};
use lakebed_proto::command::Command;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::flight_client::FlightClient;
use crate::rows_output::{RowsFormat, print_rows};

#[derive(Debug, Args)]
#[group(id = "begin", required = true, multiple = false, args = ["from", "cursor"])]
pub(crate) struct Changes {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// Changes behind this version; 0 for all rows as inserted
    #[arg(long, value_name = "VERSION|TAG|TIME", value_parser = point)]
    from: Option<Point>,
    /// Changes behind the version of a cursor
    #[arg(long, value_name = "NAME")]
    cursor: Option<String>,
    /// Up to this version [default: the latest]
    #[arg(long, value_name = "VERSION|TAG|TIME", value_parser = point)]
    to: Option<Point>,
    /// Move the cursor when the rows are printed
    #[arg(long, requires = "cursor")]
    advance: bool,
    /// The branch [default: main, or that of the cursor]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Columns to show and to look for changes in, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    columns: Option<Vec<String>>,
    /// Only these kinds of changes, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    kinds: Option<Vec<Shown>>,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t)]
    format: RowsFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// A kind of changes on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// New rows
    Insert,
    /// Rows with other values
    Update,
    /// Rows that are gone
    Delete,
}

impl From<Shown> for Kind {
    fn from(shown: Shown) -> Kind {
        match shown {
            Shown::Insert => Kind::Insert,
            Shown::Update => Kind::Update,
            Shown::Delete => Kind::Delete,
        }
    }
}

fn point(text: &str) -> Result<Point, String> {
    if let Ok(version) = text.parse() {
        return Ok(Point::Version(version));
    }
    match Point::of_text(text) {
        Point::Tag(text) if text.is_empty() || text.contains(':') => {
            Err("not a version, a tag or a time like 2026-01-01T00:00:00Z".to_owned())
        }
        point => Ok(point),
    }
}

/// The names of the columns that changed as one text, because CSV has no lists.
fn without_lists(batch: RecordBatch) -> RecordBatch {
    let schema = batch.schema();
    let Ok(at) = schema.index_of("_changed_columns") else { return batch };
    let Some(lists) = batch.column(at).as_list_opt::<i32>() else { return batch };
    let texts: StringArray = lists
        .iter()
        .map(|names| {
            let names = names?;
            let names: Vec<&str> = names.as_string_opt::<i32>()?.iter().flatten().collect();
            Some(names.join(";"))
        })
        .collect();
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    fields[at] = Arc::new(Field::new(schema.field(at).name(), DataType::Utf8, true));
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(texts);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap_or(batch)
}

impl ClientVerb for Changes {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let kinds = self.kinds.as_ref();
        let command = ChangesCommand {
            table: self.table.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            branch: self.branch.clone(),
            cursor: self.cursor.clone(),
            columns: self.columns.clone(),
            kinds: kinds.map(|kinds| kinds.iter().copied().map(Kind::from).collect()),
            blobs: None,
        };
        let flight = FlightClient::connect(client).await?;
        let (about, rows) = flight.planned(&Command::Changes(Box::new(command))).await?;
        let ends = about["from"].as_u64().zip(about["to"].as_u64());
        let (from, to) = ends.ok_or_else(|| Exit::failed("the server did not say the versions"))?;
        let is_csv = self.format == RowsFormat::Csv;
        let rows = rows.map(|batch| match batch {
            Ok(batch) if is_csv => Ok(without_lists(batch)),
            batch => batch,
        });
        print_rows(rows, self.format).await?;
        // Beside the rows, which a program may read.
        eprintln!("changes of {} behind version {from} up to {to}", self.table);
        if let Some(cursor) = self.cursor.as_ref().filter(|_| self.advance) {
            let body = json!({ "name": cursor, "version": to, "expected": from });
            let path = format!("/v1/table/{}/cursors/advance", segment(&self.table));
            client.send(Method::POST, &path, Some(body)).await?;
            eprintln!("cursor {cursor} is at version {to}");
        }
        Ok(())
    }
}
