//! `lakebed cursor list TABLE`.

use chrono::{DateTime, SecondsFormat};
use clap::Args;
use http::Method;
use serde_json::Value;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct CursorList {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for CursorList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/cursors/list", segment(&self.table));
        let answer = client.send(Method::GET, &path, None).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let rows: Vec<Vec<String>> = answer["cursors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|cursor| {
                vec![
                    cell(&cursor["name"]),
                    cell(&cursor["version"]),
                    cell(&cursor["branch"]),
                    time(&cursor["moved_at_ms"]),
                ]
            })
            .collect();
        print_table(&["cursor", "version", "branch", "moved"], &rows)
    }
}

fn time(at_ms: &Value) -> String {
    let time = at_ms.as_i64().and_then(DateTime::from_timestamp_millis);
    time.map_or_else(|| "-".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}
