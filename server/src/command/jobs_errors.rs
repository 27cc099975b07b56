//! `lakebed jobs errors JOB`: the rows that a job could give no value.

use clap::Args;
use http::Method;
use lakebed_proto::command::{Columns, Command, ReadCommand};
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::Client;
use crate::exit::Exit;
use crate::flight_client::FlightClient;
use crate::rows_output::{RowsFormat, print_rows};

#[derive(Debug, Args)]
pub(crate) struct JobsErrors {
    /// The job
    job: String,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: RowsFormat,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsErrors {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        // A job that does not exist is an error, not one without errors.
        let body = json!({ "job_id": self.job });
        client.send(Method::POST, "/v1/jobs/describe", Some(body)).await?;
        let flight = FlightClient::connect(client).await?;
        let columns = ["table_name", "column_name", "row_id", "error"];
        let read = ReadCommand {
            table: "job_errors".to_owned(),
            filter: Some(format!("job_id = '{}'", self.job.replace('\'', "''"))),
            columns: Some(Columns::Names(columns.map(str::to_owned).to_vec())),
            ..ReadCommand::default()
        };
        match flight.rows(&Command::Read(read)).await {
            // The table is made with the first error of any job.
            Err(failure) if failure.is_missing() => Ok(()),
            rows => print_rows(rows?, self.format).await,
        }
    }
}
