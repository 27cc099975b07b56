//! `lakebed row-sets list TABLE`.

use chrono::{DateTime, SecondsFormat};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct RowSetsList {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// All versions, not only the newest of each
    #[arg(long)]
    all: bool,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for RowSetsList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/row_sets/list", segment(&self.table));
        let body = json!({ "all_versions": self.all });
        let answer = client.send(Method::POST, &path, Some(body)).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let rows: Vec<Vec<String>> = answer["row_sets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|set| {
                vec![
                    cell(&set["name"]),
                    cell(&set["version"]),
                    cell(&set["rows"]),
                    cell(&set["table_version"]),
                    time(&set["created_at_ms"]),
                    cell(&set["description"]),
                ]
            })
            .collect();
        print_table(&["row set", "version", "rows", "of version", "made", "description"], &rows)
    }
}

fn time(at_ms: &Value) -> String {
    let time = at_ms.as_i64().and_then(DateTime::from_timestamp_millis);
    time.map_or_else(|| "-".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}
