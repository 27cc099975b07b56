//! `lakebed models list`: the models that are built in, offered by a worker, or registered.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

/// Columns that say something of models that nobody registered.
const BUILT_IN_COLUMNS: usize = 5;

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
                let mut rows: Vec<Vec<String>> = listed["models"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|one| {
                        let names = ["name", "input", "dimensions", "workers", "digest"];
                        let mut row: Vec<String> =
                            names.iter().map(|name| cell(&one[*name])).collect();
                        let tags = one["tags"].as_object().into_iter().flatten();
                        let tags: Vec<String> =
                            tags.map(|(tag, version)| format!("{tag}@{version}")).collect();
                        row.push(cell(&one["version"]));
                        row.push(match tags.is_empty() {
                            true => "-".to_owned(),
                            false => cell(&tags.join(", ").into()),
                        });
                        row
                    })
                    .collect();
                let mut titles =
                    vec!["MODEL", "INPUT", "DIMENSIONS", "WORKERS", "DIGEST", "VERSION", "TAGS"];
                if rows.iter().all(|row| row.iter().skip(BUILT_IN_COLUMNS).all(|cell| cell == "-"))
                {
                    titles.truncate(BUILT_IN_COLUMNS);
                    rows.iter_mut().for_each(|row| row.truncate(BUILT_IN_COLUMNS));
                }
                print_table(&titles, &rows)
            }
        }
    }
}
