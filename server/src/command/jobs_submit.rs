//! `lakebed jobs submit`: has attached workers compute a column.

use clap::Args;
use http::Method;
use serde_json::json;

use super::jobs_wait::wait_for;
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct JobsSubmit {
    /// The table: its namespaces and name joined with `$`
    #[arg(long)]
    table: String,
    /// The column that the model reads
    #[arg(long, value_name = "COLUMN")]
    input: String,
    /// The column that gets the vectors; made if it is missing
    #[arg(long, value_name = "COLUMN")]
    output: String,
    /// The model; `lakebed models list` shows which there are
    #[arg(long)]
    model: String,
    /// Only rows for which this is true
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Compute rows that have a vector, too
    #[arg(long)]
    recompute: bool,
    /// Rows of a task [default: 256]
    #[arg(long, value_name = "N")]
    task_rows: Option<u32>,
    /// Wait for the end, with a progress line
    #[arg(long)]
    wait: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsSubmit {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({
            "table": self.table,
            "input": self.input,
            "output": self.output,
            "model": self.model,
            "where": self.filter,
            "recompute": self.recompute,
            "task_rows": self.task_rows,
        });
        let submitted = client.send(Method::POST, "/v1/jobs/submit", Some(body)).await?;
        if self.wait {
            return wait_for(client, &cell(&submitted["job_id"]), self.format).await;
        }
        match self.format {
            Format::Json => print_json(&submitted),
            // The id alone, so that `JOB=$(lakebed jobs submit …)` works.
            Format::Table => print(&cell(&submitted["job_id"])),
        }
    }
}
