//! `lakebed models tag NAME VERSION TAG` and `untag NAME TAG`.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct ModelsTag {
    /// The model
    name: String,
    /// The version that the tag is to name
    version: u64,
    /// The tag; one that names another version is moved
    tag: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for ModelsTag {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let ModelsTag { name, version, tag, .. } = self;
        let path = format!("/v1/models/{}/tag", segment(name));
        client.send(Method::POST, &path, Some(json!({ "tag": tag, "version": version }))).await?;
        print(&format!("tag {tag} names version {version} of {name}"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ModelsUntag {
    /// The model
    name: String,
    /// The tag
    tag: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for ModelsUntag {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/models/{}/untag", segment(&self.name));
        client.send(Method::POST, &path, Some(json!({ "tag": self.tag }))).await?;
        print(&format!("tag {} of {} is deleted", self.tag, self.name))
    }
}
