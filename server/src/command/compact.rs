//! `lakebed compact TABLE`: joins small fragments, which the server otherwise does by itself.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct Compact {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The branch [default: main]
    #[arg(long)]
    branch: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Compact {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({ "branch": self.branch, "dry_run": self.dry_run });
        let path = format!("/v1/table/{}/compact", segment(&self.table));
        let pass = client.send(Method::POST, &path, Some(body)).await?;
        if let Format::Json = self.format {
            return print_json(&pass);
        }
        let planned = pass["planned"].as_array().map(Vec::as_slice).unwrap_or_default();
        for rewrite in planned {
            let fragments = rewrite["fragments"].as_array().map_or(0, Vec::len);
            print(&format!(
                "{fragments} fragments, {} rows, {} bytes ({})",
                cell(&rewrite["rows"]),
                cell(&rewrite["bytes"]),
                cell(&rewrite["reason"])
            ))?;
        }
        let folded = pass["fragments_folded"].as_u64().unwrap_or(0);
        if folded > 0 {
            print(&format!("the overlays of {folded} fragments are folded"))?;
        }
        match (self.dry_run, planned.len()) {
            (_, 0) if folded > 0 => Ok(()),
            (_, 0) => print("nothing to do"),
            (true, _) => print("nothing was done: this is what a compaction would do"),
            (false, _) => print(&format!(
                "version {}: {} fragments became {}{}",
                cell(&pass["version"]),
                cell(&pass["fragments_removed"]),
                cell(&pass["fragments_added"]),
                match pass["lost"].as_u64() {
                    None | Some(0) => String::new(),
                    Some(lost) => format!("; {lost} were given up, because rows changed meanwhile"),
                }
            )),
        }
    }
}
