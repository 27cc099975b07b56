//! `lakebed purge TABLE`: takes the bytes of deleted rows away, after saying what that is.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The branch [default: main]
    #[arg(long)]
    branch: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Purge without asking
    #[arg(long)]
    yes: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl Purge {
    async fn ask(&self, client: &Client, is_dry_run: bool) -> Result<Value, Exit> {
        let body = json!({ "branch": self.branch, "dry_run": is_dry_run });
        let path = format!("/v1/table/{}/purge", segment(&self.table));
        client.send(Method::POST, &path, Some(body)).await
    }
}

impl ClientVerb for Purge {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let question = format!("Purge {}? All its older versions go.", self.table);
        if let Format::Json = self.format {
            if !self.dry_run {
                confirm(self.yes, &question)?;
            }
            return print_json(&self.ask(client, self.dry_run).await?);
        }
        let planned = self.ask(client, true).await?;
        for held in texts(&planned["held_by"]) {
            print(&format!("kept: {held}"))?;
        }
        print(&format!(
            "{} fragments to be rewritten ({} deleted rows), {} indexes to be built anew, {} older \
             versions to be deleted",
            cell(&planned["fragments"]),
            cell(&planned["deleted_rows"]),
            count(&planned["indexes"]),
            count(&planned["versions"]),
        ))?;
        if self.dry_run {
            return print("nothing was done: this is what would be");
        }
        confirm(self.yes, &question)?;
        let done = self.ask(client, false).await?;
        print(&format!(
            "purged: version {} is the oldest now; {} fragments rewritten, {} indexes built anew, {} \
             versions and {} bytes of files deleted, {} large blobs of {} bytes",
            cell(&done["version"]),
            cell(&done["fragments"]),
            count(&done["indexes"]),
            count(&done["versions"]),
            cell(&done["bytes"]),
            cell(&done["blobs"]["blobs"]),
            cell(&done["blobs"]["bytes"]),
        ))?;
        for kept in done["blobs_kept"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let (sha256, by) = (cell(&kept["sha256"]), cell(&kept["kept_by"]));
            print(&format!("blob {sha256} stays: {by}"))?;
        }
        if done["orphans_left"] != json!(0) {
            print(&format!(
                "{} files that no version names stay, because writes may be under way with them; \
                 purge again in an hour",
                cell(&done["orphans_left"])
            ))?;
        }
        Ok(())
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn count(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}
