//! `lakebed models drop NAME[@VERSION]`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct ModelsDrop {
    /// The model with all its versions, or one as NAME@VERSION
    model: String,
    /// Also where it made the vectors of a column
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for ModelsDrop {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let (name, version) = match self.model.split_once('@') {
            None => (self.model.as_str(), None),
            Some((name, version)) => {
                let number: Result<u64, _> = version.parse();
                let number = number.map_err(|_| {
                    Exit::usage(format!(
                        "`{version}` is no number of a version; tags are not taken"
                    ))
                })?;
                (name, Some(number))
            }
        };
        confirm(self.yes, &format!("drop model {}?", self.model))?;
        let path = format!("/v1/models/{}/drop", segment(name));
        let body = json!({ "version": version, "force": self.force });
        client.send(Method::POST, &path, Some(body)).await?;
        print(&format!("model {} is dropped", self.model))
    }
}
