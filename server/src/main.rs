//! The `lakebed` binary: one server, and the command line that talks to it.
//!
//! ```text
//!   main ─► cli (flags) ─┬─► serve ─► config, listen, accept, http, grpc, admin_key, ready_file
//!                        └─► command/<verb> ─► client (HTTP to a running server)
//!                                          └─► the lake itself, for offline verbs
//! ```
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod accept;
mod admin_key;
mod cli;
mod client;
mod command;
mod config;
mod confirm;
mod exit;
mod grpc;
mod http_server;
mod listen;
mod logs;
mod output;
mod ready_file;
mod serve;
mod signals;
mod telemetry;

use std::process::ExitCode;

/// Decoded batches are large, freed on other threads than they were made on, and the system's
/// allocator keeps what was freed: a scan of 3 GB took 783 MiB with it and 357 MiB with this one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Memory that is free goes back soon: by default it is kept for ten seconds, in four arenas a core.
/// `_RJEM_MALLOC_CONF` in the environment goes before it.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static ALLOCATOR_SETTINGS: &[u8; 46] = b"narenas:4,dirty_decay_ms:500,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    // Two providers are linked (object stores bring both), and rustls panics at its first use
    // unless one was chosen before.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed before main");
        return ExitCode::FAILURE;
    }
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
