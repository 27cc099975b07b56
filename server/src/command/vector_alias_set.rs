//! `lakebed vector-alias set TABLE ALIAS COLUMN`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print};

#[derive(Debug, Args)]
pub(crate) struct VectorAliasSet {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The alias; a search that names no column uses `default`
    alias: String,
    /// The column of vectors that it points to from now on
    column: String,
    /// Only if it points to this column now
    #[arg(long, value_name = "COLUMN")]
    expected: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for VectorAliasSet {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({ "alias": self.alias, "column": self.column, "expected": self.expected });
        let path = format!("/v1/table/{}/vector_alias/set", segment(&self.table));
        let done = client.send(Method::POST, &path, Some(body)).await?;
        let before = match done["before"].as_str() {
            Some(before) => format!(", before to {before}"),
            None => String::new(),
        };
        let version = cell(&done["version"]);
        print(&format!("version {version}: {} points to {}{before}", self.alias, self.column))
    }
}
