//! `lakebed gc TABLE`: deletes old versions and what only they use, after saying what that is; or with
//! `--blobs` the lake's large blobs that nothing refers to.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::command::gc_blobs::gc_blobs;
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// The table: its namespaces and name joined with `$`
    #[arg(required_unless_present = "blobs")]
    table: Option<String>,
    /// Delete large blobs of the whole lake that nothing refers to any more
    #[arg(long, conflicts_with_all = ["table", "branch", "keep_age", "keep_versions"])]
    blobs: bool,
    /// The branch [default: main]
    #[arg(long)]
    branch: Option<String>,
    /// Keep versions of this age and younger, such as 30d [default: the table's retention]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    keep_age: Option<Duration>,
    /// Keep so many of the newest versions [default: the table's retention]
    #[arg(long, value_name = "N")]
    keep_versions: Option<u64>,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl Gc {
    async fn ask(&self, client: &Client, table: &str, is_dry_run: bool) -> Result<Value, Exit> {
        let body = json!({
            "branch": self.branch,
            "keep_age_ms": self.keep_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            "keep_versions": self.keep_versions,
            "dry_run": is_dry_run,
        });
        let path = format!("/v1/table/{}/gc", segment(table));
        client.send(Method::POST, &path, Some(body)).await
    }
}

impl ClientVerb for Gc {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let Some(table) = &self.table else {
            return gc_blobs(client, self.format, self.dry_run, self.yes).await;
        };
        if let Format::Json = self.format {
            if !self.dry_run {
                confirm(self.yes, &format!("Delete old versions of {table}?"))?;
            }
            return print_json(&self.ask(client, table, self.dry_run).await?);
        }
        let planned = self.ask(client, table, true).await?;
        for kept in planned["kept"].as_array().map(Vec::as_slice).unwrap_or_default() {
            print(&format!(
                "version {} stays: {}",
                cell(&kept["version"]),
                cell(&kept["kept_by"])
            ))?;
        }
        let files: u64 = files_of(&planned).map(|(_, count)| count).sum();
        if files == 0 {
            return print("nothing to delete");
        }
        print(&explained(&planned))?;
        if self.dry_run {
            return print("nothing was deleted: this is what would be");
        }
        confirm(self.yes, "Delete that?")?;
        let done = self.ask(client, table, false).await?;
        print(&format!("deleted: {}", explained(&done)))
    }
}

fn files_of(answer: &Value) -> impl Iterator<Item = (&String, u64)> {
    let files = answer["files"].as_object().into_iter().flatten();
    files.map(|(kind, count)| (kind, count.as_u64().unwrap_or(0)))
}

/// What goes, in a line.
fn explained(answer: &Value) -> String {
    let numbers: Vec<u64> =
        answer["versions"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let versions = match (numbers.first(), numbers.last()) {
        (Some(first), Some(last)) if first < last => {
            format!("{} versions from {first} to {last}", numbers.len())
        }
        (Some(only), _) => format!("version {only}"),
        _ => "no version".to_owned(),
    };
    let files: Vec<String> =
        files_of(answer).map(|(kind, count)| format!("{count} {kind}")).collect();
    let orphans = match answer["orphans"].as_u64() {
        None | Some(0) => String::new(),
        Some(orphans) => format!("; {orphans} of the files were in no version"),
    };
    format!("{versions}, {} bytes in files ({}){orphans}", cell(&answer["bytes"]), files.join(", "))
}
