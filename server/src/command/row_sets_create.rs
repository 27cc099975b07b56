//! `lakebed row-sets create TABLE NAME`, of one source.

use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{print, print_json};

#[derive(Debug, Args)]
#[group(
    id = "source",
    required = true,
    multiple = false,
    args = ["filter", "sql", "query", "ids", "union", "intersect", "difference"]
)]
pub(crate) struct RowSetsCreate {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The row set; where there is one of that name, this becomes its next version
    name: String,
    /// Rows for which this is true
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Rows that a query gives in its column `_rowid`
    #[arg(long, value_name = "QUERY")]
    sql: Option<String>,
    /// Rows that a search finds, as the body of a query over HTTP
    #[arg(long, value_name = "JSON")]
    query: Option<String>,
    /// Rows by row id, one a line; `-` for standard input
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Rows of any of these sets, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "SETS")]
    union: Option<Vec<String>>,
    /// Rows of all of these sets
    #[arg(long, value_delimiter = ',', value_name = "SETS")]
    intersect: Option<Vec<String>>,
    /// Rows of the first of these sets and of no other one
    #[arg(long, value_delimiter = ',', value_name = "SETS")]
    difference: Option<Vec<String>>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The branch whose rows are taken [default: main]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// The version of the table whose rows are taken [default: the latest]
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for RowSetsCreate {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let query: Option<Value> = match &self.query {
            None => None,
            Some(text) => {
                let query = serde_json::from_str(text);
                Some(query.map_err(|error| Exit::usage(format!("--query: {error}")))?)
            }
        };
        let mut body = json!({
            "name": self.name,
            "description": self.description,
            "branch": self.branch,
            "version": self.version,
            "filter": self.filter,
            "sql": self.sql,
            "query": query,
            "union": self.union,
            "intersect": self.intersect,
            "difference": self.difference,
        });
        if let Some(path) = &self.ids {
            body["row_ids"] = json!(ids_of(path)?);
        }
        let path = format!("/v1/table/{}/row_sets/create", segment(&self.table));
        let set = client.send(Method::POST, &path, Some(body)).await?;
        match self.format {
            Format::Json => print_json(&set),
            Format::Table => print(&format!(
                "row set {}@{} of {} has {} rows",
                self.name, set["version"], self.table, set["rows"]
            )),
        }
    }
}

fn ids_of(path: &std::path::Path) -> Result<Vec<u64>, Exit> {
    let read = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text = read.map_err(|error| Exit::failed(format!("`{}`: {error}", path.display())))?;
    let ids = text.split_whitespace().map(|id| {
        let id: String = id.chars().take(40).collect();
        id.parse().map_err(|_| Exit::usage(format!("`{id}` is no row id")))
    });
    ids.collect()
}
