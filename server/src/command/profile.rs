//! `lakebed profile TABLE open|extended`: which tools can open a table.

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// Every released reader of Lance opens it
    Open,
    /// Cells change by overlays, which released readers refuse
    Extended,
}

#[derive(Debug, Args)]
pub(crate) struct Profile {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The profile
    #[arg(value_enum)]
    profile: Wanted,
    /// The branch [default: main]
    #[arg(long)]
    branch: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Profile {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let profile = match self.profile {
            Wanted::Open => "open",
            Wanted::Extended => "extended",
        };
        let body = json!({ "branch": self.branch, "profile": profile });
        let path = format!("/v1/table/{}/profile", segment(&self.table));
        let done = client.send(Method::POST, &path, Some(body)).await?;
        if let Format::Json = self.format {
            return print_json(&done);
        }
        print(&format!("version {}: the table is {profile}", cell(&done["version"])))?;
        match done["fragments_folded"].as_u64() {
            None | Some(0) => Ok(()),
            Some(count) => print(&format!("the overlays of {count} fragments are folded")),
        }
    }
}
