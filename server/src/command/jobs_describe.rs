//! `lakebed jobs describe JOB`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct JobsDescribe {
    /// The job
    job: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsDescribe {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({ "job_id": self.job });
        let job = client.send(Method::POST, "/v1/jobs/describe", Some(body)).await?;
        match self.format {
            Format::Json => print_json(&job),
            Format::Table => {
                for name in ["job_id", "job_type", "job_state", "table"] {
                    print(&format!("{name:<17}{}", cell(&job[name])))?;
                }
                for part in ["spec", "progress", "result", "failure"] {
                    for (name, value) in job[part].as_object().into_iter().flatten() {
                        print(&format!("{name:<17}{}", cell(value)))?;
                    }
                }
                Ok(())
            }
        }
    }
}
