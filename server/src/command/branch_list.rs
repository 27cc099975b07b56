//! `lakebed branch list TABLE`.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct BranchList {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for BranchList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/branches/list", segment(&self.table));
        let answer = client.send(Method::POST, &path, None).await?;
        if self.format == Format::Json {
            return print_json(&answer);
        }
        let rows: Vec<Vec<String>> = answer["branches"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, branch)| {
                let parent = branch["parentBranch"].as_str().unwrap_or("main");
                vec![
                    cell(&name.as_str().into()),
                    cell(&parent.into()),
                    cell(&branch["parentVersion"]),
                ]
            })
            .collect();
        print_table(&["branch", "began on", "with version"], &rows)
    }
}
