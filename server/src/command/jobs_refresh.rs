//! `lakebed jobs refresh`: has a computed column filled.

use clap::Args;
use http::Method;
use serde_json::json;

use super::jobs_wait::wait_for;
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct JobsRefresh {
    /// The table: its namespaces and name joined with `$`
    #[arg(long)]
    table: String,
    /// The column; those that the same call of a function fills are filled with it
    #[arg(long)]
    column: String,
    /// Only rows for which this is true
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Only rows of this row set
    #[arg(long, value_name = "NAME[@VERSION]")]
    row_set: Option<String>,
    /// Compute rows that have a value, too
    #[arg(long)]
    recompute: bool,
    /// Wait for the end, with a progress line
    #[arg(long)]
    wait: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsRefresh {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/table/{}/backfill_column", segment(&self.table));
        let body = json!({
            "column": self.column,
            "where": self.filter,
            "row_set": self.row_set,
            "recompute": self.recompute,
        });
        let begun = client.send(Method::POST, &path, Some(body)).await?;
        if self.wait {
            return wait_for(client, &cell(&begun["job_id"]), self.format).await;
        }
        match self.format {
            Format::Json => print_json(&begun),
            Format::Table => print(&cell(&begun["job_id"])),
        }
    }
}
