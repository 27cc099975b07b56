//! `lakebed index create TABLE COLUMN --type TYPE`: builds an index and waits for it.

use clap::Args;
use http::Method;
use serde_json::json;

use super::jobs_wait::wait_for;
use crate::cli::{ClientArgs, ClientVerb, Format};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{cell, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct IndexCreate {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The column
    column: String,
    /// What to build: BTREE, BITMAP, LABEL_LIST, FTS, `IVF_PQ`, `IVF_HNSW_SQ` and so on
    #[arg(long = "type", value_name = "TYPE")]
    index_type: String,
    /// The index's name [default: the column's with `_idx`]
    #[arg(long)]
    name: Option<String>,
    /// How a vector index measures: l2, cosine or dot [default: l2]
    #[arg(long, value_name = "NAME")]
    distance: Option<String>,
    /// Keep an index of that name
    #[arg(long)]
    no_replace: bool,
    /// Print the job's id and do not wait for it
    #[arg(long)]
    no_wait: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for IndexCreate {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let body = json!({
            "column": self.column,
            "index_type": self.index_type,
            "name": self.name,
            "distance_type": self.distance,
            "replace": !self.no_replace,
        });
        let path = format!("/v1/table/{}/create_index", segment(&self.table));
        let begun = client.send(Method::POST, &path, Some(body)).await?;
        let job = cell(&begun["job_id"]);
        match (self.no_wait, self.format) {
            (false, format) => wait_for(client, &job, format).await,
            (true, Format::Json) => print_json(&begun),
            (true, Format::Table) => print(&job),
        }
    }
}
