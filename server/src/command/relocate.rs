//! `lakebed relocate --data DIR`: makes a lake that was moved or copied usable where it lies now.
//!
//! Works on the files; no server may have the lake open, which its lock sees to. Cut off half way, it is
//! simply run again.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Format, runtime};
use crate::config::{Config, Environment, Flags, Layer};
use crate::exit::Exit;
use crate::output::print;
use crate::serve::lake_options;

#[derive(Debug, Args)]
pub(crate) struct Relocate {
    /// The lake's root, where it lies now
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Say what would be rewritten, and rewrite nothing
    #[arg(long)]
    dry_run: bool,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(verb: Relocate, environment: &Environment) -> Result<(), Exit> {
    let Relocate { data, dry_run, format, config } = verb;
    let config = Config::load(Flags { layer: Layer { data, ..Layer::default() }, config }, environment)?;
    let options = lake_options(&config);
    let done = runtime()?.block_on(lakebed_storage::relocate(&options, dry_run))?;
    match format {
        Format::Table => {
            let verb = if dry_run { "would rewrite" } else { "rewrote" };
            print(&format!(
                "{verb} {} of {} manifests from {} to {}",
                done.manifests_changed, done.manifests_read, done.from, done.to
            ))
        }
        Format::Json => print(
            &serde_json::json!({
                "dry_run": dry_run,
                "from": done.from,
                "to": done.to,
                "manifests_read": done.manifests_read,
                "manifests_changed": done.manifests_changed,
            })
            .to_string(),
        ),
    }
}
