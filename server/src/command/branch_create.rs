//! `lakebed branch create TABLE NAME [--from BRANCH] [--version N]`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print};

#[derive(Debug, Args)]
pub(crate) struct BranchCreate {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The branch
    name: String,
    /// The branch that it begins on [default: main]
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// The version that it begins with [default: the latest]
    #[arg(long)]
    version: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for BranchCreate {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/branches/create", segment(&self.table));
        let body =
            json!({ "name": self.name, "from_branch": self.from, "from_version": self.version });
        let made = client.send(Method::POST, &path, Some(body)).await?;
        print(&format!(
            "branch {} of {} begins with version {} of {}",
            self.name,
            self.table,
            cell(&made["parentVersion"]),
            cell(&made["parentBranch"]),
        ))
    }
}
