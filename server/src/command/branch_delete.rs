//! `lakebed branch delete TABLE NAME`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct BranchDelete {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The branch
    name: String,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for BranchDelete {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let question = format!("Delete branch {} of {} with its versions?", self.name, self.table);
        confirm(self.yes, &question)?;
        let path = format!("/v1/table/{}/branches/delete", segment(&self.table));
        client.send(Method::POST, &path, Some(json!({ "name": self.name }))).await?;
        print(&format!("branch {} of {} is deleted", self.name, self.table))
    }
}
