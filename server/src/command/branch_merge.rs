//! `lakebed branch merge TABLE NAME`: takes what a branch changed into the one that it began on, after
//! saying what that is.

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::branch_diff::print_difference;
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

/// Whose changes count where the two contradict each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum OnConflict {
    /// Nobody's: nothing is merged
    #[default]
    Refuse,
    /// Those of the branch that it began on
    Parent,
    /// Those of the branch
    Branch,
}

#[derive(Debug, Args)]
pub(crate) struct BranchMerge {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The branch
    name: String,
    /// Whose changes count where the two contradict each other
    #[arg(long, value_enum, default_value_t)]
    on_conflict: OnConflict,
    /// A column of the key: two new rows of one key are a conflict [default: the table's primary key]
    #[arg(long, value_name = "COLUMN")]
    on: Vec<String>,
    /// Only merge if the other branch has not changed since
    #[arg(long)]
    fast_forward_only: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl BranchMerge {
    async fn ask(&self, client: &Client, is_dry_run: bool) -> Result<Value, Exit> {
        let path = format!("/v1/table/{}/branches/merge", segment(&self.table));
        let on_conflict = match self.on_conflict {
            OnConflict::Refuse => "refuse",
            OnConflict::Parent => "parent",
            OnConflict::Branch => "branch",
        };
        let body = json!({
            "from_branch": self.name,
            "on_conflict": on_conflict,
            "on": (!self.on.is_empty()).then_some(&self.on),
            "fast_forward_only": self.fast_forward_only,
            "dry_run": is_dry_run,
        });
        client.send(Method::POST, &path, Some(body)).await
    }
}

impl ClientVerb for BranchMerge {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let planned = self.ask(client, true).await?;
        let is_json = self.format == Format::Json;
        let refused = || {
            Exit::failed(
                "the branch and the one that it began on contradict each other; nothing was merged",
            )
        };
        if is_json && (self.dry_run || planned["status"] == "conflicts") {
            print_json(&planned)?;
        } else if !is_json {
            print_difference(&self.name, &planned["difference"])?;
        }
        match planned["status"].as_str() {
            Some("conflicts") => return Err(refused()),
            Some("already_merged") if !is_json => return print("it is merged already"),
            _ if self.dry_run && is_json => return Ok(()),
            _ if self.dry_run => return print("nothing was done: this is what would be"),
            _ => {}
        }
        let done = self.ask(client, false).await?;
        if is_json {
            return print_json(&done);
        }
        match done["status"].as_str() {
            Some("merged") => print(&format!(
                "merged as version {}: {} rows inserted, {} updated, {} deleted",
                cell(&done["version"]),
                cell(&done["rows"]["inserted"]),
                cell(&done["rows"]["updated"]),
                cell(&done["rows"]["deleted"]),
            )),
            _ => print("nothing to merge"),
        }
    }
}
