//! `lakebed cursor advance TABLE NAME --version N`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct CursorAdvance {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The cursor
    name: String,
    /// The version that is done with now
    #[arg(long)]
    version: u64,
    /// Only if the cursor is at this version
    #[arg(long, value_name = "VERSION")]
    expected: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for CursorAdvance {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/cursors/advance", segment(&self.table));
        let body = json!({ "name": self.name, "version": self.version, "expected": self.expected });
        let cursor = client.send(Method::POST, &path, Some(body)).await?;
        print(&format!(
            "cursor {} of {} is at version {}",
            self.name, self.table, cursor["version"]
        ))
    }
}
