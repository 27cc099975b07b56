//! `lakebed branch diff TABLE NAME`: how a branch differs from the one that it began on.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct BranchDiff {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The branch
    name: String,
    /// Changed rows and conflicts to name
    #[arg(long, default_value_t = 10)]
    samples: u64,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for BranchDiff {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/branches/diff", segment(&self.table));
        let body = json!({ "from_branch": self.name, "samples": self.samples });
        let answer = client.send(Method::POST, &path, Some(body)).await?;
        match self.format {
            Format::Json => print_json(&answer),
            Format::Table => print_difference(&self.name, &answer["difference"]),
        }
    }
}

/// Prints how a branch differs from its parent.
pub(crate) fn print_difference(name: &str, difference: &Value) -> Result<(), Exit> {
    let parent = cell(&difference["parent"]);
    print(&format!(
        "branch {name} began with version {} of {parent}; now {name} is at version {} with {} rows, \
         {parent} at version {} with {} rows",
        cell(&difference["beginVersion"]),
        cell(&difference["branchVersion"]),
        cell(&difference["branchRows"]),
        cell(&difference["parentVersion"]),
        cell(&difference["parentRows"]),
    ))?;
    for (side, changes) in [(name, "branchChanges"), (parent.as_str(), "parentChanges")] {
        let changes = &difference[changes];
        if changes.is_null() {
            continue;
        }
        print(&format!(
            "{side}: {} rows inserted, {} updated, {} deleted",
            cell(&changes["inserted"]),
            cell(&changes["updated"]),
            cell(&changes["deleted"]),
        ))?;
    }
    for (column, rows) in difference["updatedColumns"].as_object().into_iter().flatten() {
        let column = cell(&column.as_str().into());
        print(&format!("  {column}: {} rows updated on the branch", cell(rows)))?;
    }
    for column in difference["columns"].as_array().into_iter().flatten() {
        print(&format!(
            "  column {}: was {}, on {parent} {}, on the branch {}",
            cell(&column["name"]),
            cell(&column["was"]),
            cell(&column["parent"]),
            cell(&column["branch"]),
        ))?;
    }
    for (kind, count) in difference["conflicts"].as_object().into_iter().flatten() {
        print(&format!("conflicts of kind {}: {}", cell(&kind.as_str().into()), cell(count)))?;
    }
    for conflict in difference["conflictSamples"].as_array().into_iter().flatten() {
        print(&format!(
            "  {} row {} column {}: {} on {parent}, {} on the branch {}",
            cell(&conflict["kind"]),
            cell(&conflict["rowId"]),
            cell(&conflict["column"]),
            cell(&conflict["parent"]),
            cell(&conflict["branch"]),
            conflict["message"].as_str().map(|_| cell(&conflict["message"])).unwrap_or_default(),
        ))?;
    }
    for row in difference["samples"].as_array().into_iter().flatten() {
        let columns = row["columns"].as_array().into_iter().flatten();
        let columns: Vec<String> = columns.map(cell).collect();
        print(&format!(
            "  {} row {} {}",
            cell(&row["change"]),
            cell(&row["rowId"]),
            columns.join(", ")
        ))?;
    }
    Ok(())
}
