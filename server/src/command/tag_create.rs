//! `lakebed tag create TABLE TAG [--version N]`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct TagCreate {
    /// The table: its namespaces and name joined with `$`
    table: String,
    /// The tag
    tag: String,
    /// The version to name [default: the latest]
    #[arg(long)]
    version: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for TagCreate {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let table = segment(&self.table);
        let version = match self.version {
            Some(version) => version,
            None => {
                let shown =
                    client.send(Method::GET, &format!("/v1/table/{table}/show"), None).await?;
                shown["version"]
                    .as_u64()
                    .ok_or_else(|| Exit::failed("the server did not say which version is latest"))?
            }
        };
        let body = json!({ "tag": self.tag, "version": version });
        client.send(Method::POST, &format!("/v1/table/{table}/tags/create"), Some(body)).await?;
        print(&format!("tag {} names version {version} of {}", self.tag, self.table))
    }
}
