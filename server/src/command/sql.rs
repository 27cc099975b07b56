//! `lakebed sql "SELECT …"`.

use clap::Args;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::Client;
use crate::exit::Exit;
use crate::flight_client::FlightClient;
use crate::output::print;
use crate::rows_output::{RowsFormat, print_rows};

/// What a statement begins with that answers with rows.
const WITH_ROWS: [&str; 9] =
    ["select", "with", "show", "describe", "desc", "explain", "values", "table", "("];

#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// One statement
    statement: String,
    /// How to print its rows
    #[arg(long, value_enum, default_value_t)]
    format: RowsFormat,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for Sql {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let flight = FlightClient::connect(client).await?;
        let first = self.statement.trim_start().to_ascii_lowercase();
        if WITH_ROWS.iter().any(|word| first.starts_with(word)) {
            return print_rows(flight.query(&self.statement).await?, self.format).await;
        }
        let rows = flight.update(&self.statement).await?;
        print(&format!("{rows} rows"))
    }
}
