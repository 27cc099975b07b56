//! `lakebed search TABLE --column C`: by a vector, a text or a picture, by words, or by both.

use std::path::PathBuf;

use base64::Engine as _;
use clap::Args;
use lakebed_core::QueryVectors;
use lakebed_proto::command::{Columns, Command};
use lakebed_proto::search::{Embed, FullTextQuery, SearchRequest};
use lakebed_proto::text_help::Highlight;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::Client;
use crate::exit::Exit;
use crate::flight_client::FlightClient;
use crate::rows_output::{RowsFormat, print_rows};

#[derive(Debug, Args)]
#[group(id = "query", required = false, multiple = false, args = ["vector", "text", "file"])]
pub(crate) struct Search {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The column of vectors
    #[arg(long)]
    column: Option<String>,
    /// A vector, as a JSON list of numbers
    #[arg(long, value_name = "JSON")]
    vector: Option<String>,
    /// A text; a worker makes its vector by the model of the column
    #[arg(long)]
    text: Option<String>,
    /// A picture; a worker makes its vector by the model of the column
    #[arg(long, value_name = "IMAGE")]
    file: Option<PathBuf>,
    /// Words, which are looked for in the text indexes
    #[arg(long, required_unless_present = "query")]
    words: Option<String>,
    /// Mark what the words matched, in a column `_highlights`
    #[arg(long, requires = "words")]
    highlight: bool,
    /// How many rows
    #[arg(long, default_value_t = 10)]
    k: u64,
    /// Only rows for which this is true
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Only rows of this row set
    #[arg(long, value_name = "NAME[@VERSION]")]
    row_set: Option<String>,
    /// Columns to show, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    columns: Option<Vec<String>>,
    /// A version number or a tag [default: the latest version]
    #[arg(long, value_name = "VERSION|TAG")]
    at: Option<String>,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t)]
    format: RowsFormat,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Search {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let vector = match &self.vector {
            None => None,
            Some(json) => {
                let vector: QueryVectors = serde_json::from_str(json)
                    .map_err(|error| Exit::usage(format!("--vector: {error}")))?;
                Some(vector)
            }
        };
        let embed = match (&self.text, &self.file) {
            (Some(text), _) => Some(Embed::Text(text.clone())),
            (None, Some(path)) => {
                let bytes = std::fs::read(path)
                    .map_err(|error| Exit::failed(format!("`{}`: {error}", path.display())))?;
                let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
                Some(Embed::Picture(base64))
            }
            (None, None) => None,
        };
        let version = self.at.as_ref().and_then(|at| at.parse::<u64>().ok());
        let request = SearchRequest {
            table: self.table.clone(),
            version,
            tag: self.at.clone().filter(|_| version.is_none()),
            vector,
            embed,
            vector_column: self.column.clone(),
            full_text_query: self
                .words
                .as_ref()
                .map(|words| FullTextQuery { query: words.clone().into(), columns: Vec::new() }),
            highlight: self.highlight.then(Highlight::default),
            k: Some(self.k),
            filter: self.filter.clone(),
            row_set: self.row_set.clone(),
            columns: self.columns.clone().map(Columns::Names),
            ..SearchRequest::default()
        };
        let flight = FlightClient::connect(client).await?;
        let rows = flight.rows(&Command::Search(Box::new(request))).await?;
        print_rows(rows, self.format).await
    }
}
