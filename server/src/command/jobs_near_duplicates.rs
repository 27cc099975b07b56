//! `lakebed jobs near-duplicates`: finds rows whose signatures are alike.

use clap::Args;
use http::Method;
use serde_json::json;

use super::jobs_wait::wait_for;
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct JobsNearDuplicates {
    /// The table: its namespaces and name joined with `$`
    #[arg(long)]
    table: String,
    /// The column of MinHash signatures
    #[arg(long, value_name = "COLUMN")]
    signature: String,
    /// The similarity from which on rows are near duplicates, 0.5 to 1
    #[arg(long, value_name = "NUMBER", required_unless_present = "bands")]
    threshold: Option<f64>,
    /// Bands of a signature [default: by the threshold]
    #[arg(long, value_name = "N", requires = "band_slots")]
    bands: Option<u32>,
    /// Slots of a band
    #[arg(long, value_name = "N", requires = "bands")]
    band_slots: Option<u32>,
    /// The column for clusters; made if it is missing
    #[arg(long, value_name = "COLUMN", default_value = "cluster")]
    cluster: String,
    /// The column for what is kept; made if it is missing
    #[arg(long, value_name = "COLUMN", default_value = "keep")]
    keep: String,
    /// Wait for the end
    #[arg(long)]
    wait: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for JobsNearDuplicates {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({
            "signature": self.signature,
            "threshold": self.threshold,
            "bands": self.bands,
            "band_slots": self.band_slots,
            "cluster": self.cluster,
            "keep": self.keep,
        });
        let path = format!("/v1/table/{}/near_duplicates", segment(&self.table));
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
