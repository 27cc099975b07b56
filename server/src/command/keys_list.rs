//! `lakebed keys list`.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

const COLUMNS: [&str; 6] = ["id", "name", "role", "state", "created_at", "expires_at"];

#[derive(Debug, Args)]
pub(crate) struct KeysList {
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for KeysList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let answer = client.send(Method::GET, "/v1/keys", None).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let rows: Vec<Vec<String>> = answer["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|key| COLUMNS.iter().map(|column| cell(&key[*column])).collect())
            .collect();
        print_table(&COLUMNS, &rows)
    }
}
