//! `lakebed tag list TABLE`.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct TagList {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for TagList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/tags/list", segment(&self.table));
        let answer = client.send(Method::POST, &path, None).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let rows: Vec<Vec<String>> = answer["tags"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(tag, contents)| {
                vec![
                    cell(&tag.as_str().into()),
                    cell(&contents["version"]),
                    cell(&contents["branch"]),
                ]
            })
            .collect();
        print_table(&["tag", "version", "branch"], &rows)
    }
}
