//! `lakebed version`: of this binary.

use clap::Args;
use serde_json::json;

use crate::cli::Format;
use crate::exit::Exit;
use crate::output::{print, print_json};
use crate::serve::VERSION;

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(verb: &Version) -> Result<(), Exit> {
    match verb.format {
        Format::Table => print(&format!("lakebed {VERSION}")),
        Format::Json => print_json(&json!({ "version": VERSION })),
    }
}
