//! `lakebed row-sets rows TABLE NAME[@VERSION]`: its row ids, one a line.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

/// Ids of one answer.
const PAGE: usize = 100_000;

#[derive(Debug, Args)]
pub(crate) struct RowSetsRows {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The row set; its newest version unless one is named
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for RowSetsRows {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/row_sets/rows", segment(&self.table));
        let (mut name, mut after) = (self.name.clone(), None);
        loop {
            let body = json!({ "name": name, "limit": PAGE, "after": after });
            let answer = client.send(Method::POST, &path, Some(body)).await?;
            let ids: Vec<u64> = answer["row_ids"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64)
                .collect();
            if !ids.is_empty() {
                print(&ids.iter().map(u64::to_string).collect::<Vec<_>>().join("\n"))?;
            }
            if ids.len() < PAGE {
                return Ok(());
            }
            after = ids.last().copied();
            if let (Some(set), Some(version)) =
                (answer["name"].as_str(), answer["version"].as_u64())
            {
                name = format!("{set}@{version}");
            }
        }
    }
}
