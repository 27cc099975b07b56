//! `lakebed cursor create TABLE NAME [--version N]`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct CursorCreate {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The cursor
    name: String,
    /// The version that is done with; 0 to begin with the whole table [default: the latest]
    #[arg(long)]
    version: Option<u64>,
    /// The branch whose changes it follows [default: main]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for CursorCreate {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/cursors/create", segment(&self.table));
        let body = json!({ "name": self.name, "version": self.version, "branch": self.branch });
        let cursor = client.send(Method::POST, &path, Some(body)).await?;
        print(&format!(
            "cursor {} of {} is at version {}",
            self.name, self.table, cursor["version"]
        ))
    }
}
