//! `lakebed vector-alias list TABLE`.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct VectorAliasList {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for VectorAliasList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/vector_alias/list", segment(&self.table));
        let answer = client.send(Method::POST, &path, None).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let aliases = answer["aliases"].as_object().into_iter().flatten();
        let rows: Vec<Vec<String>> = aliases
            .map(|(alias, of)| {
                vec![cell(&alias.as_str().into()), cell(&of["column"]), cell(&of["model"])]
            })
            .collect();
        print_table(&["alias", "column", "model"], &rows)
    }
}
