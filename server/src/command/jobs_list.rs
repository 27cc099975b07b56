//! `lakebed jobs list`.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print_json, print_table};

#[derive(Debug, Args)]
pub(crate) struct JobsList {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsList {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let mut jobs: Vec<Value> = Vec::new();
        let mut token = Value::Null;
        loop {
            let body = json!({ "limit": 1_000, "page_token": token });
            let page = client.send(Method::POST, "/v1/jobs/list", Some(body)).await?;
            jobs.extend(page["jobs"].as_array().cloned().unwrap_or_default());
            match page.get("page_token") {
                Some(next) => token = next.clone(),
                None => break,
            }
        }
        match self.format {
            Format::Json => print_json(&json!({ "jobs": jobs })),
            Format::Table => {
                let rows: Vec<Vec<String>> = jobs
                    .iter()
                    .map(|job| {
                        let names = ["job_id", "job_type", "table", "state"];
                        names.iter().map(|name| cell(&job[*name])).collect()
                    })
                    .collect();
                print_table(&["JOB", "TYPE", "TABLE", "STATE"], &rows)
            }
        }
    }
}
