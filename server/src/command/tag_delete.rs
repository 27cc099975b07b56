//! `lakebed tag delete TABLE TAG`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct TagDelete {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The tag
    tag: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for TagDelete {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/tags/delete", segment(&self.table));
        client.send(Method::POST, &path, Some(json!({ "tag": self.tag }))).await?;
        print(&format!("tag {} of {} is deleted", self.tag, self.table))
    }
}
