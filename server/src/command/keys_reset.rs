//! `lakebed keys reset --data DIR`: a new admin key for a lake whose key was lost.
//!
//! Whoever can open the lake's files owns it, so no key is asked for. The lake must not be open in
//! a server; its lock sees to that. The admin key before is refused from then on, other keys stay.

use std::path::PathBuf;

use clap::Args;
use lakebed_storage::Lake;

use crate::admin_key::{self, KeyFile};
use crate::cli::runtime;
use crate::config::{Config, Environment, Flags, Layer};
use crate::exit::Exit;
use crate::output::print;
use crate::serve::{lake_options, open_service};

#[derive(Debug, Args)]
pub(crate) struct KeysReset {
    /// The lake's root, as given to `serve`
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Where to write the new key [default: ~/.config/lakebed/<lake id>.key]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(verb: KeysReset, environment: &Environment) -> Result<(), Exit> {
    let KeysReset { data, api_key_file, config } = verb;
    let layer = Layer { data, api_key_file, ..Layer::default() };
    let config = Config::load(Flags { layer, config }, environment)?;
    runtime()?.block_on(async {
        if !Lake::is_at(&lake_options(&config)).await? {
            let message = format!("there is no lake at {}; say --data", config.data);
            return Err(Exit::failed(message));
        }
        let service = open_service(&config).await?;
        let file = KeyFile::of(&config, service.lake_id())?;
        let result = admin_key::replace(&service, &file).await;
        service.shutdown(tokio::time::Instant::now() + config.shutdown_timeout).await;
        result?;
        print(&format!("the new admin key is in {}", file.path().display()))
    })
}
