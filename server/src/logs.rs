//! Log lines on standard error, as text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::exit::Exit;

/// Lance warns when it cannot delete the files of a column that was refused before it wrote any, and when
/// some partitions of an index get no vectors. What `RUST_LOG` says of them comes later and counts.
const QUIET: &str = "lance::dataset::fragment=error,lance_index::vector::kmeans=error";

/// Starts the log.
///
/// # Errors
/// Wrong usage for a `RUST_LOG` that makes no sense.
pub(crate) fn start(config: &Config) -> Result<(), Exit> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.log_filter))
        .map_err(|error| Exit::usage(format!("RUST_LOG: {error}")))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).try_init(),
    };
    started.map_err(|error| Exit::failed(format!("start the log: {error}")))
}
