//! `lakebed jobs pause`, `resume` and `cancel`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::Client;
use crate::exit::Exit;

/// A job to pause.
#[derive(Debug, Args)]
pub(crate) struct JobsPause {
    /// The job
    job: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// A job to go on with.
#[derive(Debug, Args)]
pub(crate) struct JobsResume {
    /// The job
    job: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// A job to call off.
#[derive(Debug, Args)]
pub(crate) struct JobsCancel {
    /// The job
    job: String,
    #[command(flatten)]
    client: ClientArgs,
}

async fn change(client: &Client, verb: &str, job: &str) -> Result<(), Exit> {
    let path = format!("/v1/jobs/{verb}");
    client.send(Method::POST, &path, Some(json!({ "job_id": job }))).await.map(|_| ())
}

impl ClientVerb for JobsPause {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        change(client, "pause", &self.job).await
    }
}

impl ClientVerb for JobsResume {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        change(client, "resume", &self.job).await
    }
}

impl ClientVerb for JobsCancel {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        change(client, "cancel", &self.job).await
    }
}
