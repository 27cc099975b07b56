//! `lakebed row-sets drop TABLE NAME[@VERSION]`: one version, or all of them.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::{cell, print};

#[derive(Debug, Args)]
pub(crate) struct RowSetsDrop {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The row set; all of its versions unless one is named
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for RowSetsDrop {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        confirm(self.yes, &format!("drop row set {} of {}?", self.name, self.table))?;
        let path = format!("/v1/table/{}/row_sets/drop", segment(&self.table));
        let body = json!({ "name": self.name });
        let answer = client.send(Method::POST, &path, Some(body)).await?;
        print(&format!("dropped {} versions of row set {}", cell(&answer["dropped"]), self.name))
    }
}
