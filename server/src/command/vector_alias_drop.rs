//! `lakebed vector-alias drop TABLE ALIAS`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print};

#[derive(Debug, Args)]
pub(crate) struct VectorAliasDrop {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The alias
    alias: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for VectorAliasDrop {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/vector_alias/drop", segment(&self.table));
        let done = client.send(Method::POST, &path, Some(json!({ "alias": self.alias }))).await?;
        let (before, version) = (cell(&done["before"]), cell(&done["version"]));
        print(&format!("version {version}: {} is gone; it pointed to {before}", self.alias))
    }
}
