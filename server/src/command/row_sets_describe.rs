//! `lakebed row-sets describe TABLE NAME[@VERSION]`: what a row set is and how it came to be.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print_json;

#[derive(Debug, Args)]
pub(crate) struct RowSetsDescribe {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The row set; its newest version unless one is named
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for RowSetsDescribe {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/row_sets/describe", segment(&self.table));
        let body = json!({ "name": self.name });
        print_json(&client.send(Method::POST, &path, Some(body)).await?)
    }
}
