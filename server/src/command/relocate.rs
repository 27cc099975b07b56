//! `lakebed relocate --data DIR`: for a lake that was moved or copied.
//!
//! Lance writes some absolute paths into manifests, so a lake that lies elsewhere than it was made
//! refuses to open until they are rewritten. The lake must not be open in a server.

use std::path::PathBuf;

use clap::Args;
use lakebed_storage::Relocation;
use serde_json::json;

use crate::cli::{Format, runtime};
use crate::config::{Config, Environment, Flags, Layer};
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output::{print, print_json};
use crate::serve::lake_options;

#[derive(Debug, Args)]
pub(crate) struct Relocate {
    /// The lake's root as it is now
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Say what would change and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, at a terminal either
    #[arg(long)]
    yes: bool,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(verb: Relocate, environment: &Environment) -> Result<(), Exit> {
    let Relocate { data, dry_run, yes, format, config } = verb;
    let layer = Layer { data, ..Layer::default() };
    let config = Config::load(Flags { layer, config }, environment)?;
    let options = lake_options(&config);
    if !dry_run {
        confirm(yes, &format!("rewrite the paths of the lake at {}?", config.data))?;
    }
    let done = runtime()?.block_on(lakebed_storage::relocate(&options, dry_run))?;
    match format {
        Format::Json => print_json(&json!({
            "from": done.from,
            "to": done.to,
            "manifests_read": done.manifests_read,
            "manifests_changed": done.manifests_changed,
            "dry_run": dry_run,
        })),
        Format::Table => print(&sentence(&done, dry_run)),
    }
}

fn sentence(done: &Relocation, dry_run: bool) -> String {
    let Relocation { from, to, manifests_read, manifests_changed } = done;
    if from == to {
        return format!("the lake lies at {to}, where it was made; nothing to do");
    }
    let verb = if dry_run { "would change" } else { "changed" };
    format!("from {from} to {to}: {verb} {manifests_changed} of {manifests_read} manifests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_whether_anything_was_done() {
        let mut done = Relocation {
            from: "/a".to_owned(),
            to: "/b".to_owned(),
            manifests_read: 3,
            manifests_changed: 2,
        };
        assert!(sentence(&done, true).contains("would change 2 of 3"));
        assert!(sentence(&done, false).contains("changed 2 of 3"));
        done.from = "/b".to_owned();
        assert!(sentence(&done, false).contains("nothing to do"));
    }
}
