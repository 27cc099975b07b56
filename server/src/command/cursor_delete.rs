//! `lakebed cursor delete TABLE NAME`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct CursorDelete {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The cursor
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for CursorDelete {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/cursors/delete", segment(&self.table));
        client.send(Method::POST, &path, Some(json!({ "name": self.name }))).await?;
        print(&format!("cursor {} of {} is deleted", self.name, self.table))
    }
}
