//! `lakebed jobs submit`: has attached workers compute a column.

use std::collections::BTreeMap;

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
    /// Only rows of this row set
    #[arg(long, value_name = "NAME[@VERSION]")]
    row_set: Option<String>,
    /// Compute rows that have a vector, too
    #[arg(long)]
    recompute: bool,
    /// Rows of a task [default: what a worker does in a few seconds]
    #[arg(long, value_name = "N")]
    task_rows: Option<u32>,
    /// Jobs of a higher priority go first; -100 to 100
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Workers that may have tasks of it at a time
    #[arg(long, value_name = "N")]
    max_workers: Option<u32>,
    /// A label that a worker has to have; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Processors that each task takes of a worker
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// GPUs that each task takes
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// MiB of GPU memory that each task takes
    #[arg(long, value_name = "MIB")]
    gpu_memory_mb: Option<u64>,
    /// Seconds after which it is called off
    #[arg(long, value_name = "SECONDS")]
    timeout_s: Option<u64>,
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
            "row_set": self.row_set,
            "recompute": self.recompute,
            "task_rows": self.task_rows,
            "priority": self.priority,
            "max_workers": self.max_workers,
            "labels": self.labels.iter().cloned().collect::<BTreeMap<String, String>>(),
            "resources": {
                "cpus": self.cpus.unwrap_or_default(),
                "gpus": self.gpus.unwrap_or_default(),
                "gpu_memory_mb": self.gpu_memory_mb.unwrap_or_default(),
            },
            "timeout_s": self.timeout_s,
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

/// A label as it is given.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is `name=value`")?;
    Ok((name.to_owned(), value.to_owned()))
}
