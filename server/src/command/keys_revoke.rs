//! `lakebed keys revoke ID`.

use clap::Args;
use http::Method;

use crate::cli::{ClientArgs, ClientVerb};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct KeysRevoke {
    /// The public part of the key, as `keys list` shows it
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClientVerb for KeysRevoke {
    fn client(&self) -> &ClientArgs {
        &self.client
    }

    async fn run(&self, client: &Client) -> Result<(), Exit> {
        client.send(Method::DELETE, &format!("/v1/keys/{}", segment(&self.id)), None).await?;
        print(&format!("key {} is revoked", self.id))
    }
}
