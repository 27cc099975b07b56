//! `lakebed index list TABLE`: the indexes of a table and how much of it they cover.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct IndexList {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for IndexList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/index/list", segment(&self.table));
        let listed = client.send(Method::POST, &path, Some(json!({}))).await?;
        if let Format::Json = self.format {
            return print_json(&listed);
        }
        let indexes = listed["indexes"].as_array().cloned().unwrap_or_default();
        let columns = |index: &Value| {
            let names = index["columns"].as_array().into_iter().flatten();
            names.map(cell).collect::<Vec<_>>().join(", ")
        };
        let rows: Vec<Vec<String>> = indexes
            .iter()
            .map(|index| {
                vec![
                    cell(&index["index_name"]),
                    columns(index),
                    cell(&index["index_type"]),
                    cell(&index["num_indexed_rows"]),
                    cell(&index["num_unindexed_rows"]),
                ]
            })
            .collect();
        print_table(&["INDEX", "COLUMNS", "TYPE", "INDEXED", "NOT INDEXED"], &rows)
    }
}
