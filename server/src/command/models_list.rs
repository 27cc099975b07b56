//! `lakebed models list`: the models that are built in or offered by a worker.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct ModelsList {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for ModelsList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let listed = client.send(Method::GET, "/v1/models", None).await?;
        match self.format {
            Format::Json => print_json(&listed),
            Format::Table => {
                let rows: Vec<Vec<String>> = listed["models"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|one| {
                        let names = ["name", "input", "dimensions", "workers", "digest"];
                        names.iter().map(|name| cell(&one[*name])).collect()
                    })
                    .collect();
                print_table(&["MODEL", "INPUT", "DIMENSIONS", "WORKERS", "DIGEST"], &rows)
            }
        }
    }
}
